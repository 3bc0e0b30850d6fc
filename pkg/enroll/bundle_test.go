// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package enroll_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"k8s.io/client-go/util/cert"

	"github.com/smartnat/smartnat/pkg/enroll"
)

const token = "eyJhbGciOiJSUzI1NiJ9.eyJleHAiOjE5MjQ5OTE5OTl9.c2lnbmF0dXJl"

// authority is the PEM of a certificate.
func authority(t testing.TB) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := cert.NewSelfSignedCACert(cert.Config{CommonName: "test"}, key)
	if err != nil {
		t.Fatal(err)
	}
	text, err := cert.EncodeCertificates(ca)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func bundle(t testing.TB) *enroll.Bundle {
	return &enroll.Bundle{
		Gateway: "gateway-1", Expires: time.Date(2030, 12, 31, 23, 59, 59, 0, time.UTC),
		Relay: enroll.Relay{
			Servers: []string{"https://10.10.0.11:30443", "https://[fd00:10::11]:30443"}, ServerName: "smartnat-relay.smartnat.svc",
			CertificateAuthority: authority(t), Token: token,
		},
		Cluster: enroll.Cluster{
			ServiceNetworks: prefixes("10.96.0.0/16"),
			Nodes: []enroll.Node{
				{Addresses: addresses("10.10.0.11"), PodNetworks: prefixes("10.244.1.0/24")},
				{Addresses: addresses("10.10.0.12"), PodNetworks: prefixes("10.244.2.0/24")},
			},
		},
	}
}

func prefixes(texts ...string) (all []netip.Prefix) {
	for _, text := range texts {
		all = append(all, netip.MustParsePrefix(text))
	}
	return all
}

func addresses(texts ...string) (all []netip.Addr) {
	for _, text := range texts {
		all = append(all, netip.MustParseAddr(text))
	}
	return all
}

func marshal(t testing.TB, b *enroll.Bundle) string {
	t.Helper()
	text, err := b.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestBundleSurvivesTheWay(t *testing.T) {
	want := bundle(t)
	want.Node = "worker-1.example.com"
	got, err := enroll.Parse([]byte(marshal(t, want)))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

// TestBadBundles has mistakes, and texts from a cluster that tries to become a path, a key of YAML or a word of a shell.
func TestBadBundles(t *testing.T) {
	good := marshal(t, bundle(t))
	for _, test := range []struct{ name, old, new, want string }{
		{"an empty file", good, "", `the bundle is of kind "", not GatewayBundle: want the output of kubectl smartnat enroll`},
		{"another file", good, "\x00binary", "the bundle is not YAML: want the output of kubectl smartnat enroll"},
		{"a Secret", "kind: GatewayBundle", "kind: Secret", `the bundle is of kind "Secret", not GatewayBundle: want the output of kubectl smartnat enroll`},
		{"a later version", "v1alpha1", "v1", `the bundle has version "smartnat.aureacentral.com/v1", and this smartnatd knows smartnat.aureacentral.com/v1alpha1: use the same release of kubectl-smartnat and smartnatd`},
		{"an unknown field", "gateway: gateway-1", "gateway: gateway-1\nrun: reboot",
			"the bundle has a field that is unknown, written twice or of a wrong type: want the output of kubectl smartnat enroll, from the same release as this smartnatd"},
		{"a field twice", "gateway: gateway-1", "gateway: gateway-1\ngateway: gateway-2",
			"the bundle has a field that is unknown, written twice or of a wrong type: want the output of kubectl smartnat enroll, from the same release as this smartnatd"},
		{"a path as the name", "gateway: gateway-1", "gateway: ../../root",
			`gateway: "../../root" is not the name of a gateway: use up to 42 lower-case letters, digits and dashes`},
		{"a shell word as the name", "gateway: gateway-1", "gateway: $(reboot)",
			`gateway: "$(reboot)" is not the name of a gateway: use up to 42 lower-case letters, digits and dashes`},
		{"a line more in the name", "gateway: gateway-1", `gateway: "gateway-1\nstateDir: /"`,
			`gateway: "gateway-1\nstateDir: /" is not the name of a gateway: use up to 42 lower-case letters, digits and dashes`},
		{"a flag as the name", "gateway: gateway-1", "gateway: -f", `gateway: "-f" is not the name of a gateway: use up to 42 lower-case letters, digits and dashes`},
		{"a line more in the name of the node", "gateway: gateway-1", `node: "a\nstateDir: /"` + "\ngateway: gateway-1", `node: "a\nstateDir: /" is not the name of a node`},
		{"a server without TLS", "https://10.10.0.11:30443", "http://10.10.0.11:30443", `relay.servers: "http://10.10.0.11:30443" is not https://HOST:PORT`},
		{"a server with a password", "https://10.10.0.11:30443", "https://a:b@10.10.0.11:1", `relay.servers: "https://a:b@10.10.0.11:1" is not https://HOST:PORT`},
		{"a server with a line more", "- https://10.10.0.11:30443", `- "https://a:1\nx: y"`, `relay.servers: "https://a:1\nx: y" is not https://HOST:PORT`},
		{"a server name that is a key", "serverName: smartnat-relay.smartnat.svc", `serverName: "a: b"`, `relay.serverName: "a: b" is neither a DNS name nor an address`},
		{"a token with a line more", token, `"a.b.c\nX-Header: 1"`, "relay.token: is not the token of a ServiceAccount"},
		{"a key instead of an authority", "CERTIFICATE", "PRIVATE KEY", `relay.certificateAuthority: has a PEM block of type "PRIVATE KEY", want only CERTIFICATE`},
		{"everything as a Service network", "10.96.0.0/16", "0.0.0.0/0", "cluster.serviceNetworks: 0.0.0.0/0 is too large for a network of a cluster: want at least /8"},
		{"loopback as a Service network", "10.96.0.0/16", "127.0.0.0/8", "cluster.serviceNetworks: 127.0.0.0/8 is not a network of a cluster"},
		{"host bits in a network", "10.96.0.0/16", "10.96.0.1/16", "cluster.serviceNetworks: 10.96.0.1/16 is not a network"},
		{"loopback as a node", "- 10.10.0.11\n", "- 127.0.0.1\n", "cluster.nodes: 127.0.0.1 is not the address of a node"},
		{"a link in the address of a node", "- 10.10.0.11\n", "- fe80::1%eth0\n", "cluster.nodes: fe80::1%eth0 is not the address of a node"},
		{"no end", "2030-12-31T23:59:59Z\"\n", "0001-01-01T00:00:00Z\"\n", "expires: is required"},
	} {
		t.Run(test.name, func(t *testing.T) {
			text := strings.ReplaceAll(good, test.old, test.new)
			if text == good {
				t.Fatalf("the bundle has no %q:\n%s", test.old, good)
			}
			_, err := enroll.Parse([]byte(text))
			if err == nil || err.Error() != test.want {
				t.Errorf("got  %v\nwant %s", err, test.want)
			}
			if err != nil && strings.Contains(err.Error(), token) {
				t.Error("the error quotes the token")
			}
		})
	}
}

func FuzzBundle(f *testing.F) {
	f.Add(marshal(f, bundle(f)))
	f.Add("apiVersion: smartnat.aureacentral.com/v1alpha1\nkind: GatewayBundle\n")
	f.Fuzz(func(t *testing.T, text string) {
		b, err := enroll.Parse([]byte(text))
		if err != nil {
			return
		}
		again, err := enroll.Parse([]byte(marshal(t, b)))
		if err != nil || again.Gateway != b.Gateway || again.Relay.Token != b.Relay.Token {
			t.Errorf("%v: %q", err, text)
		}
	})
}
