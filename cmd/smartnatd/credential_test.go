// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"testing"
	"time"

	"github.com/smartnat/smartnat/pkg/config"
)

// certificateUntil returns a client certificate in PEM.
func certificateUntil(t *testing.T, end time.Time) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	of := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: end.Add(-time.Hour), NotAfter: end}
	der, err := x509.CreateCertificate(rand.Reader, of, of, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func tokenUntil(end time.Time) string {
	return "e30." + base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, `{"iat":%d,"exp":%d}`, end.Unix()-3600, end.Unix())) + ".c2ln\n"
}

func TestCredentialEnds(t *testing.T) {
	first, second := time.Unix(1800000000, 0), time.Unix(1900000000, 0)
	const kubeconfig = `{"clusters":[{"name":"c","cluster":{"server":"https://a"}}],"contexts":[{"name":"c","context":{"cluster":"c","user":"u"}}],
"current-context":"c","users":[{"name":"u","user":{"client-certificate-data":%q,"client-key-data":"a2V5","token":%q}}]}`
	inline := func(certificate, token time.Time) string {
		return fmt.Sprintf(kubeconfig, base64.StdEncoding.EncodeToString([]byte(certificateUntil(t, certificate))), tokenUntil(token))
	}
	relay := config.Source{Relay: &config.Relay{Servers: []string{"https://a"}}}
	withToken, withCertificate := relay, relay
	withToken.Relay = &config.Relay{Servers: relay.Relay.Servers, TokenFile: "file"}
	withCertificate.Relay = &config.Relay{Servers: relay.Relay.Servers, CertFile: "file", KeyFile: "key"}
	cluster := config.Source{Kubeconfig: &config.Kubeconfig{Path: "file"}}
	for _, tc := range []struct {
		name    string
		source  config.Source
		content string
		want    time.Time
	}{
		{"the token of a relay", withToken, tokenUntil(first), first},
		{"a token that says nothing", withToken, "secret\n", time.Time{}},
		{"no token yet", withToken, "", time.Time{}},
		{"the certificate for a relay", withCertificate, certificateUntil(t, first), first},
		{"a kubeconfig whose certificate ends first", cluster, inline(first, second), first},
		{"a kubeconfig whose token ends first", cluster, inline(second, first), first},
		{"no kubeconfig yet", cluster, "", time.Time{}},
		{"files", config.Source{Files: &config.Files{}}, "", time.Time{}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Chdir(t.TempDir())
			if tc.content != "" {
				if err := os.WriteFile("file", []byte(tc.content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if got := credentialEnds(tc.source); !got.Equal(tc.want) {
				t.Errorf("%v, want %v", got, tc.want)
			}
		})
	}
}
