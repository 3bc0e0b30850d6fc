// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// list is what the API server of these tests answers.
const list = `{"apiVersion": "smartnat.aureacentral.com/v1alpha1", "kind": "MappingList", "metadata": {"resourceVersion": "1"}, "items": [{
	"apiVersion": "smartnat.aureacentral.com/v1alpha1", "kind": "Mapping", "metadata": {"name": "web", "namespace": "shop"},
	"spec": {"addresses": ["198.51.100.10"], "serviceName": "web", "ports": [{"port": 80}]},
	"status": {"conditions": [{"type": "Ready", "status": "False", "reason": "ServiceNotFound", "message": "no Service web"}],
		"instances": [{"name": "gateway-1", "programmed": false, "ready": false, "reason": "ServiceNotFound"}]}}]}`

// cluster serves the list to all namespaces or to the context's, and returns a kubeconfig.
func cluster(t *testing.T) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		switch req.URL.Path {
		case "/apis/smartnat.aureacentral.com/v1alpha1/mappings", "/apis/smartnat.aureacentral.com/v1alpha1/namespaces/shop/mappings":
			fmt.Fprint(w, list)
		default:
			w.WriteHeader(http.StatusForbidden)
			fmt.Fprint(w, `{"apiVersion": "v1", "kind": "Status", "status": "Failure", "reason": "Forbidden", "code": 403, "message": "not for you"}`)
		}
	}))
	t.Cleanup(server.Close)
	path := filepath.Join(t.TempDir(), "kubeconfig")
	text := fmt.Sprintf("apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters: [{name: c, cluster: {server: %q}}]\ncontexts: [{name: c, context: {cluster: c, namespace: shop}}]\n", server.URL)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestCommands(t *testing.T) {
	const state = `"namespace": "shop",
    "name": "web",
    "service": "web",`
	for _, test := range []struct {
		args   string
		code   int
		stdout []string // parts
		stderr string
	}{
		{"status", exitFailure, []string{"MAPPING   SERVICE  ADDRESSES      PORTS   READY  GATEWAY    FORWARDS  WHY\n",
			"shop/web  web      198.51.100.10  80/tcp  False  gateway-1  no        ServiceNotFound: no Service web\n"}, "kubectl smartnat: not everything is ready\n"},
		{"status -A -o json", exitFailure, []string{"[\n  {\n    " + state}, "kubectl smartnat: not everything is ready\n"},
		{"status --namespace shop -o yaml", exitFailure, []string{"- addresses:\n  - 198.51.100.10\n", "  ready: \"False\"\n"}, "kubectl smartnat: not everything is ready\n"},
		{"status -n other", exitFailure, nil, "kubectl smartnat: reading the Mappings: not for you\n"},
		{"status -o xml", exitUsage, nil, "kubectl smartnat: --output \"xml\": want table, json or yaml\n"},
		{"status web", exitUsage, nil, "kubectl smartnat: unknown command \"web\": see kubectl smartnat status --help\n"},
		{"explain 203.0.113.7 198.51.100.10:80", exitFailure, []string{"Mapping shop/web exposes it, but is not ready: no Service web (ServiceNotFound)\n" +
			"on gateway-1:  smartnatd explain 203.0.113.7 198.51.100.10:80/tcp\n"}, "kubectl smartnat: not everything is ready\n"},
		{"explain 203.0.113.7 198.51.100.10:80/UDP -o json", exitFailure, []string{`"verdict": "unmapped"`}, "kubectl smartnat: not everything is ready\n"},
		{"explain 203.0.113.7", exitUsage, nil, "kubectl smartnat: want a source and a destination, as in: kubectl smartnat explain 203.0.113.7 198.51.100.10:5432/tcp\n"},
		{"explain host 198.51.100.10:80", exitUsage, nil, "kubectl smartnat: source \"host\": want an IP address such as 203.0.113.7\n"},
		{"connections shop/web", 0, []string{"on gateway-1:  smartnatd connections shop/web\n"}, ""},
		{"connections -o json", 0, []string{`"command": "smartnatd connections"`}, ""},
		{"connections web", exitUsage, nil, "kubectl smartnat: want at most one Mapping, as NAMESPACE/NAME\n"},
		{"connections shop/none", exitFailure, nil, "kubectl smartnat: there is no Mapping shop/none\n"},
		{"enroll", exitUsage, nil, "kubectl smartnat: want the name of one gateway, such as gateway-1\n"},
		{"enroll a/b", exitUsage, nil, "kubectl smartnat: \"a/b\" is not the name of a gateway: use up to 42 lower-case letters, digits and dashes\n"},
		{"enroll gateway-1 --service-network x", exitUsage, nil, "kubectl smartnat: --service-network: \"x\" is not a network such as 10.96.0.0/16\n"},
		{"enroll gateway-1 --addresses 198.51.100.10/24", exitUsage, nil, "kubectl smartnat: addresses: \"198.51.100.10/24\" has bits set beyond its prefix length: want 198.51.100.0/24\n"},
		{"enroll gateway-1", exitFailure, nil, "kubectl smartnat: reading the nodes: not for you\n"},
		{"limit gateway-1", exitUsage, nil, "kubectl smartnat: want a gateway and what it may see, as in: kubectl smartnat limit gateway-1 198.51.100.10\n"},
		{"limit gateway-1 198.51.100.10/24", exitUsage, nil, "kubectl smartnat: addresses: \"198.51.100.10/24\" has bits set beyond its prefix length: want 198.51.100.0/24\n"},
		{"limit gateway-1 all", exitFailure, nil, "kubectl smartnat: not for you\n"},
		{"revoke gateway-1", exitFailure, nil, "kubectl smartnat: not for you\n"},
		{"--flag", exitUsage, nil, "kubectl smartnat: unknown flag: --flag\n"},
		{"destroy", exitUsage, nil, "kubectl smartnat: unknown command \"destroy\": see kubectl smartnat --help\n"},
		{"--version", 0, []string{"kubectl-smartnat development\n"}, ""},
	} {
		t.Run(test.args, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			args := append(strings.Fields(test.args), "--kubeconfig", cluster(t))
			if code := run(t.Context(), args, &stdout, &stderr); code != test.code {
				t.Errorf("exit code %d, want %d", code, test.code)
			}
			if stderr.String() != test.stderr {
				t.Errorf("stderr\n%swant\n%s", stderr.String(), test.stderr)
			}
			for _, part := range test.stdout {
				if !strings.Contains(stdout.String(), part) {
					t.Errorf("stdout\n%swant\n%s", stdout.String(), part)
				}
			}
			if len(test.stdout) == 0 && stdout.Len() > 0 {
				t.Errorf("stdout\n%s", stdout.String())
			}
		})
	}
}

// TestEveryCommandNamesItsMistake expects one line, and exit code 2, from each command.
func TestEveryCommandNamesItsMistake(t *testing.T) {
	t.Setenv("KUBECONFIG", filepath.Join(t.TempDir(), "none"))
	for _, command := range []string{"status", "explain 192.0.2.1 198.51.100.10:80", "connections", "enroll gateway-1", "limit gateway-1 all", "revoke gateway-1"} {
		for flag, want := range map[string]string{
			"--wrong":       "kubectl smartnat: unknown flag: --wrong\n",
			"--kubeconfig=": "kubectl smartnat: there is no kubeconfig: name it by KUBECONFIG or --kubeconfig\n",
		} {
			var stdout, stderr bytes.Buffer
			if code := run(t.Context(), append(strings.Fields(command), flag), &stdout, &stderr); code != exitUsage || stderr.String() != want || stdout.Len() > 0 {
				t.Errorf("%s %s: exit code %d, %q, %q, want %d and %q", command, flag, code, stdout.String(), stderr.String(), exitUsage, want)
			}
		}
	}
}
