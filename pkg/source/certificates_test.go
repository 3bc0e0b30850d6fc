// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package source

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/smartnat/smartnat/pkg/config"
)

// authority is a CA.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{key: key, certificate: &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}}
	der, err := x509.CreateCertificate(rand.Reader, a.certificate, a.certificate, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	if a.certificate, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return a
}

func (a *authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.certificate)
	return pool
}

func (a *authority) pem() string { return encode("CERTIFICATE", a.certificate.Raw) }

func encode(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

// issue returns a certificate for 127.0.0.1 with the given validity, and its key.
func (a *authority) issue(t *testing.T, valid time.Duration) (certificate, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "gateway"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(valid), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}, a.certificate, private.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return encode("CERTIFICATE", der), encode("EC PRIVATE KEY", keyDER)
}

// TestCertificatesThatHaveExpired proves for both sides that an expired certificate is named in the log, that the known
// objects stay, and that a renewed one is picked up.
func TestCertificatesThatHaveExpired(t *testing.T) {
	for _, test := range []struct {
		name, why string
		client    bool
	}{
		{name: "of the server", why: "certificate has expired"},
		{name: "of the client", why: "expired certificate", client: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			a, dir := newAuthority(t), t.TempDir()
			path := func(name string) string { return filepath.Join(dir, name) }
			issue := func(valid time.Duration, name string) tls.Certificate {
				certificate, key := a.issue(t, valid)
				for file, text := range map[string]string{name + ".crt": certificate, name + ".key": key} {
					if err := os.WriteFile(path(file), []byte(text), 0o600); err != nil {
						t.Fatal(err)
					}
				}
				pair, err := tls.X509KeyPair([]byte(certificate), []byte(key))
				if err != nil {
					t.Fatal(err)
				}
				return pair
			}
			if err := os.WriteFile(path("ca.crt"), []byte(a.pem()), 0o600); err != nil {
				t.Fatal(err)
			}
			serving := make(chan tls.Certificate, 1)
			serving <- issue(time.Hour, "server")
			issue(time.Hour, "client")
			server := newStubOf(t, true, &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
				now := <-serving
				serving <- now
				return &tls.Config{
					Certificates: []tls.Certificate{now}, ClientCAs: a.pool(), ClientAuth: tls.RequireAndVerifyClientCert, NextProtos: []string{"h2"},
				}, nil
			}})
			server.add("mappings", echoMapping)
			log, hook := testLog()
			source, err := New(config.Source{Relay: &config.Relay{
				Servers: []string{server.URL}, CAFile: path("ca.crt"), CertFile: path("client.crt"), KeyFile: path("client.key"), TokenFile: writeFile(t, "token", "secret"),
			}}, func() {}, log)
			if err != nil {
				t.Fatal(err)
			}
			start(t, source)
			eventually(t, "synced", source.HasSynced)

			renew := func(valid time.Duration) {
				if test.client {
					issue(valid, "client")
					return
				}
				<-serving
				serving <- issue(valid, "server")
			}
			renew(-time.Minute)
			time.Sleep(1100 * time.Millisecond) // client-go caches the file for a second
			server.CloseClientConnections()
			eventually(t, "lost", func() bool { return strings.Contains(source.Contact().Why, test.why) })
			if len(source.Snapshot().Mappings) != 1 {
				t.Error("the known objects are gone")
			}
			renew(time.Hour)
			eventually(t, "reconnected", func() bool { return messages(hook, "reconnected to server") == 1 })
		})
	}
}

// TestImpostor expects that a server which cannot prove that it is the relay gets no request, and so no token.
func TestImpostor(t *testing.T) {
	relay, another := newAuthority(t), newAuthority(t)
	serving := func(a *authority) *tls.Config {
		certificate, key := a.issue(t, time.Hour)
		pair, err := tls.X509KeyPair([]byte(certificate), []byte(key))
		if err != nil {
			t.Fatal(err)
		}
		return &tls.Config{Certificates: []tls.Certificate{pair}}
	}
	for _, test := range []struct {
		name, serverName, why string
		by                    *authority
	}{
		{"of another authority", "", "signed by unknown authority", another},
		{"with another name", "smartnat-relay", "wanted to match smartnat-relay", relay},
	} {
		t.Run(test.name, func(t *testing.T) {
			server := newStubOf(t, true, serving(test.by))
			log, _ := testLog()
			source, err := New(config.Source{Relay: &config.Relay{
				Servers: []string{server.URL}, ServerName: test.serverName, CAFile: writeFile(t, "ca.crt", relay.pem()), TokenFile: writeFile(t, "token", "secret"),
			}}, func() { t.Error("changed was called without a change") }, log)
			if err != nil {
				t.Fatal(err)
			}
			start(t, source)
			eventually(t, "refused", func() bool { return strings.Contains(source.Contact().Why, test.why) })
			if n := server.requestCount(); n > 0 {
				t.Errorf("%d requests, want none", n)
			}
		})
	}
}
