// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
)

// unpack returns the parts of an archive by name, without the folder.
func unpack(t *testing.T, archive []byte) map[string]string {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(archive))
	if err != nil {
		t.Fatal(err)
	}
	parts := map[string]string{}
	for r := tar.NewReader(z); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return parts
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		folder, name, _ := strings.Cut(header.Name, "/")
		if !strings.HasPrefix(folder, "smartnat-bugreport-20") || path.Clean(header.Name) != header.Name || header.Mode != 0o600 {
			t.Errorf("%s, mode %o", header.Name, header.Mode)
		}
		parts[name] = string(content)
	}
}

// TestBugreportTellsNoSecret plants secrets in credentials and configs, and in what programs say.
func TestBugreportTellsNoSecret(t *testing.T) {
	folder := t.TempDir()
	write := func(name, text string, mode os.FileMode) string {
		file := filepath.Join(folder, name)
		if err := os.WriteFile(file, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return file
	}
	const token, password, execToken, comment = "planted-token-0123456789", "planted&password", "planted-exec-value", "planted-comment"
	key := string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: []byte("planted key: " + strings.Repeat("0123456789", 9))}))
	keyLines := strings.Split(strings.TrimSpace(key), "\n")
	keyLines = keyLines[1 : len(keyLines)-1]
	encoded := base64.StdEncoding.EncodeToString
	tokenFile, keyFile := write("token", token+"\n", 0o600), write("key", key, 0o600)
	kubeconfig := write("kubeconfig", fmt.Sprintf(`users:
- name: a
  user: {token: %s, password: %s, client-key-data: %s, exec: {command: get-token, env: [{name: X, value: %s}]}}
`, token, password, encoded([]byte(key)), execToken), 0o600)
	all := append([]string{token, encoded([]byte(token)), password, execToken, encoded([]byte(key))}, keyLines...)
	script := "#!/bin/sh\ncat <<'END'\nfirst line of " + "PROGRAM" + "\n" + strings.Join(all, "\n") + "\nEND\n"
	bin := filepath.Join(folder, "bin")
	if err := os.Mkdir(bin, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, p := range reported() {
		write("bin/"+p.args[0], script, 0o700)
	}
	write("bin/ip", script+"cat <<'END' >&2\nno permission for "+token+"\nEND\nexit 1\n", 0o700)
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	for _, tc := range []struct {
		name, source string
		// secrets are those that this config leads to.
		secrets []string
		loads   bool
	}{
		{"relay, token", "relay: {servers: ['https://10.0.0.1:8443'], tokenFile: " + tokenFile + "}", []string{token, encoded([]byte(token))}, true},
		{"a password in a URL", "relay: {servers: ['https://user:" + url.QueryEscape(password) + "@10.0.0.1:8443'], tokenFile: " + tokenFile + "}",
			[]string{token, password, url.QueryEscape(password)}, false},
		{"relay, key", "relay: {servers: ['https://10.0.0.1:8443'], certFile: /c, keyFile: " + keyFile + "}", append([]string{encoded([]byte(key))}, keyLines...), true},
		{"kubeconfig", "kubeconfig: {path: " + kubeconfig + "}", all, true},
		{"the token in place of its file", "relay: {servers: ['https://10.0.0.1:8443'], tokenFile: " + token + "}", []string{token, encoded([]byte(token))}, false},
		{"a kubeconfig, and an unknown key", "kubeconfig: {path: " + kubeconfig + ", token: x}", all, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			config := write("smartnat.yaml", "instance: gw1 # "+comment+"\nruntimeDir: "+folder+"\nsource: {"+tc.source+"}\n", 0o600)
			exit, stdout, stderr := smartnatd(t, "", "bugreport", "--config", config, "--file", filepath.Join(folder, "out.tar.gz"))
			archive, err := os.ReadFile(filepath.Join(folder, "out.tar.gz"))
			if err := errors.Join(err, os.Remove(filepath.Join(folder, "out.tar.gz"))); err != nil || exit != 0 || !strings.Contains(stdout, "out.tar.gz") {
				t.Fatalf("exit code %d, %v: %s%s", exit, err, stdout, stderr)
			}
			parts := unpack(t, archive)
			parts["standard error"] = stderr
			for name, content := range parts {
				if strings.Contains(content, comment) {
					t.Errorf("%s tells a comment of the config", name)
				}
				for _, secret := range tc.secrets {
					if strings.Contains(content, secret) {
						t.Errorf("%s tells %q:\n%s", name, secret, content)
					}
				}
			}
			for _, name := range []string{"version.txt", "host/sysctls.txt", "host/version.txt", "host/links.txt", "journal.txt"} {
				if _, found := parts[name]; !found {
					t.Errorf("no %s", name)
				}
			}
			if got := strings.Contains(parts["config.yaml"], "gw1"); got != tc.loads {
				t.Errorf("config.yaml: %s", parts["config.yaml"])
			}
			if !strings.Contains(parts["journal.txt"], "first line of ") {
				t.Errorf("journal.txt: %s", parts["journal.txt"])
			}
			if tc.loads && !strings.Contains(parts["missing.txt"], "status.json: no smartnatd runs with this config") || !strings.Contains(stderr, "missing: status.json") {
				t.Errorf("missing.txt: %s", parts["missing.txt"])
			}
		})
	}
}

func TestBugreportFiles(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	t.Run("without a config, to standard output", func(t *testing.T) {
		exit, stdout, stderr := smartnatd(t, "", "bugreport", "--config", "/nonexistent.yaml", "--file", "-")
		if exit != 0 || linesWith(stderr, "missing: config.yaml: /nonexistent.yaml cannot be used") != 1 || linesWith(stderr, "missing: host/links.txt: ip -details link show") != 1 {
			t.Errorf("exit code %d:\n%s", exit, stderr)
		}
		if parts := unpack(t, []byte(stdout)); !strings.HasPrefix(parts["version.txt"], "smartnatd ") {
			t.Errorf("version.txt: %q", parts["version.txt"])
		}
	})
	t.Run("never over an existing file", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "report")
		if err := os.WriteFile(file, []byte("mine"), 0o600); err != nil {
			t.Fatal(err)
		}
		exit, _, stderr := smartnatd(t, "", "bugreport", "--file", file)
		if content := readFile(t, file); exit != exitFailure || content != "mine" || linesWith(stderr, "file exists") != 1 {
			t.Errorf("exit code %d, %q: %s", exit, content, stderr)
		}
	})
}
