// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/finding"
	"github.com/smartnat/smartnat/pkg/logging"
	"github.com/smartnat/smartnat/pkg/metrics"
	"github.com/smartnat/smartnat/pkg/testenv"
)

// secret must never be in a log.
const secret = "eyJhbGciOiJSUzI1NiJ9.cGxhbnRlZA.c2VjcmV0"

// TestMistakesInTheConfigTellNoSecret checks that no error shows a secret in the wrong place of the config.
func TestMistakesInTheConfigTellNoSecret(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	relay := func(more string) string {
		return "source:\n  relay:\n    servers: [https://127.0.0.1:1]\n" + more
	}
	key := string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: []byte(secret)}))
	keySecret := strings.Split(key, "\n")[1]
	token := file("token", secret+"\n")
	for _, test := range []struct {
		name, config string
		env          string // instead of tokenFile
		want         string
	}{
		{"the token instead of its file", relay("    tokenFile: " + secret), "", `source.relay.tokenFile: Invalid value: "(not a path)"`},
		{"the token in the environment", relay(""), secret, `source.relay.tokenFile: Invalid value: "(not a path)"`},
		{"an unknown key", relay("    token: " + secret), "", "source.relay.token: unknown key"},
		{"a list", relay("    tokenFile: [" + secret + "]"), "", "source.relay.tokenFile: must be a single value"},
		{"two tokens in the file", relay("    tokenFile: " + file("two", secret+" "+secret)), "", "must hold one bearer token"},
		{"a token and a certificate", relay("    tokenFile: " + secret + "\n    certFile: /c\n    keyFile: /k"), "", "must not be set together with"},
		{"the key instead of its file", relay("    certFile: " + token + "\n    keyFile: |\n      " + strings.ReplaceAll(key, "\n", "\n      ")), "",
			`source.relay.keyFile: Invalid value: "(not a path)"`},
		{"the token as a certificate", relay("    certFile: " + token + "\n    keyFile: " + file("key", key)), "", "must hold a certificate"},
		{"a password in the URL", "source:\n  relay:\n    servers: ['https://me:" + secret + "@127.0.0.1']\n    tokenFile: " + token, "",
			"source.relay.servers[0]"},
		{"a broken kubeconfig", "source: {kubeconfig: {path: " + file("kubeconfig", "users: {token: "+secret+"}\nkind: [") + "}}", "", "source.kubeconfig"},
		{"a password in the URL of a kubeconfig", "source: {kubeconfig: {path: " + file("password", `{kind: Config, current-context: a,
			clusters: [{name: a, cluster: {server: "https://me:`+secret+`@127.0.0.1:1"}}], contexts: [{name: a, context: {cluster: a}}]}`) + "}}", "",
			"the server's URL must not contain credentials"},
		{"no YAML", relay("    tokenFile: " + secret + ": {"), "", "yaml"},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := file("smartnat.yaml", test.config+"\nlog: {level: debug}\n")
			if test.env != "" {
				t.Setenv("SMARTNAT_SOURCE_RELAY_TOKENFILE", test.env)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond) // for a source that never syncs
			defer cancel()
			var out bytes.Buffer
			exit := run(ctx, []string{"check", "--config", path}, strings.NewReader(""), &out, &out)
			said := out.String()
			if exit == 0 || !strings.Contains(said, test.want) {
				t.Errorf("exit code %d, want a failure that says %q:\n%s", exit, test.want, said)
			}
			if all := said + librariesLog.String(); strings.Contains(all, secret) || strings.Contains(all, keySecret) {
				t.Errorf("the output has the secret:\n%s", all)
			}
		})
	}
}

// lines is a log that several goroutines write.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer // not embedded: its ReadFrom would bypass the lock
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// TestRefusalsTellNoSecret checks at debug level that no secret is logged if a server echoes the request, as a debugging proxy
// does. A Status is an exception: its message is logged, because it is the API's own.
func TestRefusalsTellNoSecret(t *testing.T) {
	if testenv.Inside() {
		output(t, "ip", "link", "set", "lo", "up")
	}
	for _, test := range []struct {
		code        int
		contentType []string
	}{
		{http.StatusUnauthorized, []string{"text/plain"}},
		{http.StatusForbidden, []string{"text/plain"}},
		{http.StatusInternalServerError, []string{"text/plain"}},
		{http.StatusInternalServerError, nil},
		{http.StatusTooManyRequests, []string{"text/plain"}},
	} {
		t.Run(fmt.Sprint(http.StatusText(test.code), test.contentType), func(t *testing.T) {
			var mu sync.Mutex
			seen := map[string]bool{}
			server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				mu.Lock()
				defer mu.Unlock()
				seen[r.Header.Get("Authorization")] = true
				w.Header()["Content-Type"] = test.contentType
				w.WriteHeader(test.code)
				_ = r.Header.Write(w)
			}))
			defer server.Close()
			dir := t.TempDir()
			write := func(name string, content []byte) string {
				path := filepath.Join(dir, name)
				if err := os.WriteFile(path, content, 0o600); err != nil {
					t.Fatal(err)
				}
				return path
			}
			cfg := config.Default()
			cfg.Instance, cfg.StateDir, cfg.Log.Level = "gw1", dir, "debug"
			cfg.Source.Relay = &config.Relay{
				Servers: []string{server.URL}, TokenFile: write("token", []byte(secret)),
				CAFile: write("ca", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})),
			}
			var out lines
			log, err := logging.New(logging.Options(cfg.Log), &out)
			if err != nil {
				t.Fatal(err)
			}
			objects, err := (&builder{log: log, counts: metrics.New(version, nil)}).newSource(cfg, true, func() {})
			if err != nil {
				t.Fatal(err)
			}
			reporters, err := newReporters(cfg, log)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			var running sync.WaitGroup
			running.Go(func() { _ = objects.Run(ctx) })
			for _, r := range reporters {
				r.Report(finding.Report{})
				running.Go(func() { r.Run(ctx) })
			}
			for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
				if said := out.String(); strings.Contains(said, "lost connection") && strings.Contains(said, "status of Mappings") {
					break
				}
			}
			cancel()
			running.Wait()
			log.WithField("config", fmt.Sprintf("%+v", cfg.Source.Relay)).Debug("source config")
			mu.Lock()
			defer mu.Unlock()
			if !seen["Bearer "+secret] {
				t.Errorf("the server never got the token, but %d others", len(seen))
			}
			if said := out.String() + librariesLog.String(); !strings.Contains(said, "lost connection") || !strings.Contains(said, "status of Mappings") || strings.Contains(said, secret) {
				t.Errorf("logged nothing, or the secret:\n%s", said)
			}
		})
	}
}
