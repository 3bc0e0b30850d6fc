// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/smartnat/smartnat/pkg/config"
)

const listPath = relayURL + "/apis/smartnat.aureacentral.com/v1alpha1/mappings"

// TestGuardOfARealCluster gives out credentials and revokes them, as an administrator does.
func TestGuardOfARealCluster(t *testing.T) {
	p := startControlPlane(t)
	p.write("clients.crt", p.ca.pem())
	startRelay(t, p, "--log-level=debug", "--recheck-interval=1s", "--review-cache-ttl=1s", "--metrics-bind-address=127.0.0.1:9090",
		"--client-ca-file", p.path("clients.crt"))
	t.Run("manifests", func(t *testing.T) { testManifests(t, p) })
	t.Run("permissions of the relay", func(t *testing.T) { testRights(t, p) })
	t.Run("enroll and revoke", func(t *testing.T) { testEnroll(t, p) })
	t.Run("reload of certificates", func(t *testing.T) { testCertificates(t, p) })
	t.Run("metrics", func(t *testing.T) { testMetrics(t) })
}

// testManifests applies each component to the cluster in a dry run, and a Pod as the Deployment's controller would create
// it.
func testManifests(t *testing.T, p *controlPlane) {
	here, err := filepath.Rel(p.dir, must(t)(filepath.Abs("../../relay/manifests")))
	if err != nil {
		t.Fatal(err)
	}
	for component, want := range map[string]string{
		"client-ca":     "--client-ca-file=/etc/smartnat-relay/client-ca/ca.crt",
		"load-balancer": "type: LoadBalancer",
		"cert-manager":  "",
	} {
		t.Run(component, func(t *testing.T) {
			p.write("kustomization.yaml", fmt.Appendf(nil, "resources: [%s]\ncomponents: [%[1]s/components/%s]\n", here, component))
			if component == "cert-manager" {
				// This cluster does not have the kinds of cert-manager, so only check that the references match.
				text := p.kubectl("kustomize", p.dir)
				if got := strings.Count(text, "secretName: smartnat-relay-tls"); got != 2 {
					t.Errorf("the Secret of the certificate occurs %d times, want 2 (Certificate and Deployment)", got)
				}
				return
			}
			out := p.kubectl("apply", "--dry-run=server", "--validate=strict", "--kustomize", p.dir, "-o", "yaml")
			if !strings.Contains(out, want) || strings.Contains(out, "Warning") {
				t.Errorf("no %s in\n%s", want, out)
			}
		})
	}
	t.Run("Pod admission", func(t *testing.T) {
		var template corev1.PodTemplateSpec
		text := p.kubectl("--namespace=smartnat", "get", "deployment", "smartnat-relay", "-o", "jsonpath={.spec.template}")
		if err := json.Unmarshal([]byte(text), &template); err != nil {
			t.Fatal(err)
		}
		pod := corev1.Pod{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}, ObjectMeta: template.ObjectMeta, Spec: template.Spec}
		pod.Name, pod.Namespace = "smartnat-relay-1", "smartnat"
		create := func(name string) error {
			raw, err := json.Marshal(pod)
			if err != nil {
				return err
			}
			p.write(name, raw)
			out, err := p.kubectlAs("--server", clusterURL, "--client-certificate", p.path("admin.crt"), "--client-key", p.path("admin.key"),
				"create", "--dry-run=server", "--filename", p.path(name))
			if err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
			return nil
		}
		if err := create("pod.json"); err != nil {
			t.Error(err)
		}
		pod.Spec.Containers[0].SecurityContext.Capabilities = nil
		if err := create("lax.json"); err == nil || !strings.Contains(err.Error(), "restricted") {
			t.Errorf("Pod that keeps its capabilities: %v, want a refusal by the namespace's Pod Security level", err)
		}
	})
}

func must(t *testing.T) func(string, error) string {
	return func(s string, err error) string {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
}

// testRights asks the cluster for the permissions that an attacker with the relay's ServiceAccount would have.
func testRights(t *testing.T, p *controlPlane) {
	got := map[string]string{}
	want := map[string]string{}
	for question, answer := range map[string]string{
		"watch mappings.smartnat.aureacentral.com": "yes",
		"watch services":      "yes",
		"create tokenreviews": "yes",
		"create events":       "yes",
		"update events":       "no",
		"delete events":       "no",
		"patch mappings.smartnat.aureacentral.com --subresource=status": "yes",
		"patch mappings.smartnat.aureacentral.com":                      "no",
		"create mappings.smartnat.aureacentral.com":                     "no",
		"get secrets":     "no",
		"get configmaps":  "no",
		"get pods":        "no",
		"get nodes":       "no",
		"update services": "no",
		"create serviceaccounts --subresource=token":    "no",
		"impersonate users":                             "no",
		"create clusterrolebindings.rbac.authorization": "no",
		"delete leases --namespace=smartnat":            "no",
	} {
		out, _ := p.kubectlAs(append([]string{"--server", clusterURL, "--client-certificate", p.path("admin.crt"), "--client-key",
			p.path("admin.key"), "auth", "can-i", "--as=system:serviceaccount:smartnat:smartnat-relay"}, strings.Fields(question)...)...)
		lines := strings.Fields(out)
		got[question], want[question] = lines[len(lines)-1], answer
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

// enroll runs the script as the admin of the cluster.
func (p *controlPlane) enroll(args ...string) (string, error) {
	cmd := exec.CommandContext(p.t.Context(), "../../scripts/enroll.sh", args...)
	cmd.Env = append(os.Environ(), "KUBECTL="+strings.Join([]string{filepath.Join(p.tools, "kubectl"), "--kubeconfig=/dev/null",
		"--server", clusterURL, "--certificate-authority", p.path("ca.crt"),
		"--client-certificate", p.path("admin.crt"), "--client-key", p.path("admin.key")}, " "))
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func testEnroll(t *testing.T, p *controlPlane) {
	folder := filepath.Join(p.dir, "edge-1")
	enroll := func() string {
		out, err := p.enroll("edge-1", "--server", relayURL, "--server-name=127.0.0.1", "--ca", p.path("ca.crt"), "--output", folder)
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return p.read("edge-1/token")
	}
	token := enroll()
	for _, name := range []string{"token", "smartnat.yaml", "ca.crt"} {
		info, err := os.Stat(filepath.Join(folder, name))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v, want access for its owner only", name, info, err)
		}
	}
	got, err := config.Load(filepath.Join(folder, "smartnat.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	want := &config.Relay{Servers: []string{relayURL}, ServerName: "127.0.0.1", CAFile: "/etc/smartnat/ca.crt", TokenFile: "/etc/smartnat/token"}
	if diff := cmp.Diff(want, got.Source.Relay); diff != "" || got.Instance != "edge-1" {
		t.Errorf("instance %s, relay (-want +got)\n%s", got.Instance, diff)
	}

	t.Run("with defaults from the cluster", func(t *testing.T) { testEnrollByDefault(t, p) })

	client := p.client("")
	if got := p.ask(client, listPath, token); got != http.StatusOK {
		t.Errorf("relay: status %d", got)
	}
	if got := p.ask(client, clusterURL+"/api/v1/services", token); got != http.StatusUnauthorized {
		t.Errorf("kube-apiserver: status %d, want 401", got)
	}
	old, token := token, enroll()
	for name, token := range map[string]string{"the token before the renewal": old, "the renewed token": token} {
		if got := p.ask(client, listPath, token); got != http.StatusOK {
			t.Errorf("%s: %d", name, got)
		}
	}

	t.Run("a removed role", func(t *testing.T) {
		ended := p.watch(client, token)
		const accepted = `smartnat_relay_token_reviews_total{result="accepted"}`
		before := p.metric(accepted)
		p.eventually("several rechecks of the watch", func() bool { return p.metric(accepted) > before+3 })
		if got := p.metric("smartnat_relay_watches_revoked_total"); got != 0 {
			t.Errorf("%v watches of authorized users have ended", got)
		}
		p.kubectl("delete", "clusterrolebinding", "smartnat-gateway-edge-1")
		ended()
		p.eventually("requests to be forbidden", func() bool { return p.ask(client, listPath, token) == http.StatusForbidden })
		enroll()
		p.eventually("requests to be allowed again", func() bool { return p.ask(client, listPath, token) == http.StatusOK })
	})
	t.Run("a revoked gateway", func(t *testing.T) {
		ended := p.watch(client, token)
		if out, err := p.enroll("--revoke", "edge-1"); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		ended()
		p.eventually("requests to be refused", func() bool { return p.ask(client, listPath, token) == http.StatusUnauthorized })
		if got := p.ask(client, listPath, enroll()); got != http.StatusOK {
			t.Errorf("after another enrollment: %d", got)
		}
		if got := p.ask(client, listPath, token); got != http.StatusUnauthorized {
			t.Errorf("an old token: %d, want 401", got)
		}
	})
	t.Run("an account that is not a gateway's", func(t *testing.T) {
		for _, args := range [][]string{{"smartnat-relay", "--server", relayURL}, {"--revoke", "smartnat-relay"}} {
			if out, err := p.enroll(args...); err == nil || !strings.Contains(out, "does not belong to a gateway") {
				t.Errorf("%v: %v: %s", args, err, out)
			}
		}
		p.kubectl("--namespace=smartnat", "get", "serviceaccount", "smartnat-relay")
	})
	if text := p.log.String(); strings.Contains(text, token) || strings.Contains(text, old) || !strings.Contains(text, listPath[len(relayURL):]) {
		t.Errorf("the log has a token (%t) or no requests", strings.Contains(text, token))
	}
}

// testEnrollByDefault enrolls a gateway by its name only, with the relay's certificate in the place that the README names.
func testEnrollByDefault(t *testing.T, p *controlPlane) {
	if out, err := p.enroll("edge-2", "--output", p.path("edge-2")); err == nil || !strings.Contains(out, "please give --server") {
		t.Errorf("without a node: %v: %s", err, out)
	}
	p.write("node.yaml", []byte(`{apiVersion: v1, kind: Node, metadata: {name: node1},
		status: {addresses: [{type: Hostname, address: node1}, {type: InternalIP, address: 10.10.0.11}, {type: InternalIP, address: "fd00:10::11"}]}}`))
	p.kubectl("create", "--filename", p.path("node.yaml"))
	if out, err := p.enroll("edge-2", "--output", p.path("edge-2")); err == nil || !strings.Contains(out, "please give --ca FILE") {
		t.Errorf("without a CA: %v: %s", err, out)
	}
	p.kubectl("--namespace=smartnat", "create", "secret", "generic", "smartnat-relay-tls", "--type=kubernetes.io/tls",
		"--from-file=tls.crt="+p.path("relay.crt"), "--from-file=tls.key="+p.path("relay.key"), "--from-file=ca.crt="+p.path("ca.crt"))
	if out, err := p.enroll("edge-2", "--output="+p.path("edge-2")); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	got, err := config.Load(p.path("edge-2/smartnat.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	port := p.kubectl("--namespace=smartnat", "get", "service", "smartnat-relay", "-o", "jsonpath={.spec.ports[0].nodePort}")
	want := []string{"https://10.10.0.11:" + port, "https://[fd00:10::11]:" + port}
	if diff := cmp.Diff(want, got.Source.Relay.Servers); diff != "" || got.Source.Relay.ServerName != "smartnat-relay.smartnat.svc" {
		t.Errorf("server name %s, servers (-want +got)\n%s", got.Source.Relay.ServerName, diff)
	}
	if p.read("edge-2/ca.crt") != p.read("ca.crt") {
		t.Error("the CA certificate differs")
	}
}

func (p *controlPlane) read(name string) string {
	p.t.Helper()
	text, err := os.ReadFile(p.path(name))
	if err != nil {
		p.t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

// ask returns the status code of a response, or 0 on failure.
func (p *controlPlane) ask(client *http.Client, url, token string) int {
	resp, err := p.request(p.t.Context(), client, url, token)
	if err != nil {
		return 0
	}
	defer func() { _ = resp.Body.Close() }()
	return resp.StatusCode
}

func (p *controlPlane) request(ctx context.Context, client *http.Client, url, token string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	return client.Do(req)
}

// watch opens a watch and returns a function that waits for its end.
func (p *controlPlane) watch(client *http.Client, token string) (ended func()) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	p.t.Cleanup(cancel)
	resp, err := p.request(ctx, client, listPath+"?watch=1", token)
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { _ = resp.Body.Close() })
	if resp.StatusCode != http.StatusOK {
		p.t.Fatalf("watch: status %d", resp.StatusCode)
	}
	return func() {
		p.t.Helper()
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			p.t.Errorf("the watch did not end: %v", err)
		}
	}
}

// metric returns the value of a series, or 0 if it does not exist yet.
func (p *controlPlane) metric(series string) (value float64) {
	p.t.Helper()
	resp, err := http.Get("http://127.0.0.1:9090/metrics")
	if err != nil {
		p.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		if text, ok := strings.CutPrefix(lines.Text(), series+" "); ok {
			if value, err = strconv.ParseFloat(text, 64); err != nil {
				p.t.Fatal(err)
			}
		}
	}
	return value
}

func testMetrics(t *testing.T) {
	resp, err := http.Get("http://127.0.0.1:9090/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"smartnat_relay_synced 1\n", `smartnat_relay_objects{resource="services"} 1` + "\n", "smartnat_relay_watches_revoked_total 3\n",
		`smartnat_relay_upstream_requests_total{resource="mappings",result="ok",verb="watch"} `, "smartnat_relay_panics_total 0\n",
		`smartnat_relay_requests_total{code="200",resource="mappings",verb="list"} `, `smartnat_relay_token_reviews_total{result="accepted"} `,
		`smartnat_relay_rejections_total{reason="forbidden"} `, "go_goroutines ",
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("no %q", want)
		}
	}
	if strings.Contains(string(text), "edge-1") || t.Failed() {
		t.Errorf("metrics:\n%s", text)
	}
}
