// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"io"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// secret must not occur in any log.
const secret = "eyJhbGciOiJSUzI1NiJ9.cGxhbnRlZA.c2VjcmV0"

// TestNoSecretIsInTheLog proves that no secret is logged at debug level, for broken and for unusable configurations.
func TestNoSecretIsInTheLog(t *testing.T) {
	dir := t.TempDir()
	file := func(name string, content []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	newKey := func() (*ecdsa.PrivateKey, []byte) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		der, err := x509.MarshalECPrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		return key, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})
	}
	key, keyPEM := newKey()
	_, otherPEM := newKey()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert := file("tls.crt", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	right, other := file("tls.key", keyPEM), file("other.key", otherPEM)
	kubeconfig := func(name, credential string) string {
		return file(name, []byte(`{apiVersion: v1, kind: Config, current-context: c, contexts: [{name: c, context: {cluster: c, user: u}}],
			clusters: [{name: c, cluster: {server: "https://127.0.0.1:1"}}], users: [{name: u, user: {`+credential+`}}]}`))
	}
	for _, test := range []struct {
		name, kubeconfig, key string
		// ends is set if the relay cannot start.
		ends bool
	}{
		{"an unreachable cluster", kubeconfig("good", "token: "+secret), right, false},
		{"a token of the wrong kind", kubeconfig("list", "token: ["+secret+"]"), right, true},
		{"malformed YAML", kubeconfig("bad", "token: "+secret+" ["), right, true},
		{"the key of another certificate", kubeconfig("fine", "token: "+secret), other, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var log safeBuffer
			ended := make(chan int, 1)
			args := []string{
				"--kubeconfig", test.kubeconfig, "--bind-address=127.0.0.1", "--secure-port=0", "--tls-cert-file", cert,
				"--tls-private-key-file", test.key, "--log-level=debug",
			}
			go func() { ended <- run(ctx, args, io.Discard, &log, alone) }()
			if test.ends {
				if status := <-ended; status == 0 {
					t.Error("the relay exited without an error")
				}
			} else {
				for deadline := time.Now().Add(10 * time.Second); !strings.Contains(log.String(), "lost connection") && time.Now().Before(deadline); {
					time.Sleep(10 * time.Millisecond)
				}
				cancel()
				<-ended
			}
			said := log.String()
			if said == "" || !test.ends && !strings.Contains(said, "lost connection") {
				t.Errorf("the log does not name the fault:\n%s", said)
			}
			for _, s := range []string{secret, strings.Split(string(keyPEM), "\n")[1], strings.Split(string(otherPEM), "\n")[1]} {
				if strings.Contains(said, s) {
					t.Errorf("the log has the secret %s:\n%s", s, said)
				}
			}
		})
	}
}
