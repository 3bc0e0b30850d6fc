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
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"

	"github.com/smartnat/smartnat/pkg/enroll"
	"github.com/smartnat/smartnat/pkg/plugin"
)

const listPath = relayURL + "/apis/smartnat.aureacentral.com/v1alpha1/mappings"

// TestGuardOfARealCluster gives out credentials and revokes them, as an administrator does.
func TestGuardOfARealCluster(t *testing.T) {
	p := startControlPlane(t)
	p.write("clients.crt", p.ca.pem())
	startRelay(t, p, "--log-level=debug", "--recheck-interval=1s", "--review-cache-ttl=1s", "--metrics-bind-address=127.0.0.1:9090",
		"--client-ca-file", p.path("clients.crt"))
	t.Run("install.yaml", func(t *testing.T) { testInstall(t, p) })
	t.Run("manifests", func(t *testing.T) { testManifests(t, p) })
	t.Run("chart", func(t *testing.T) { testChart(t, p) })
	t.Run("permissions of the relay", func(t *testing.T) { testRights(t, p) })
	t.Run("the relay's own certificate", func(t *testing.T) { testIssuing(t, p) })
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
				for _, want := range []string{"secretName: smartnat-relay-tls", "--tls-secret=smartnat-relay-tls", "--issue-certificate=false"} {
					if got := strings.Count(text, want); got != 1 {
						t.Errorf("%s occurs %d times, want once", want, got)
					}
				}
				_, role, _ := strings.Cut(text, "  name: smartnat-relay-certificate\n")
				role, _, _ = strings.Cut(role, "\n---")
				if !strings.HasSuffix(role, "  resources:\n  - secrets\n  verbs:\n  - get") {
					t.Errorf("the relay may do more than read the Secret:\n%s", role)
				}
				if strings.Contains(text, "kind: Secret\n") {
					t.Error("the manifests have a Secret, which cert-manager creates")
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
		"patch mappings.smartnat.aureacentral.com --subresource=status":   "yes",
		"patch mappings.smartnat.aureacentral.com":                        "no",
		"patch portgrants.smartnat.aureacentral.com --subresource=status": "yes",
		"patch portgrants.smartnat.aureacentral.com":                      "no",
		"create mappings.smartnat.aureacentral.com":                       "no",
		"get secrets":     "no",
		"get configmaps":  "no",
		"get pods":        "no",
		"get nodes":       "no",
		"update services": "no",
		"create serviceaccounts --subresource=token":    "no",
		"watch serviceaccounts --namespace=smartnat":    "yes",
		"watch serviceaccounts --namespace=default":     "no",
		"patch serviceaccounts --namespace=smartnat":    "no",
		"impersonate users":                             "no",
		"create clusterrolebindings.rbac.authorization": "no",
		"delete leases --namespace=smartnat":            "no",
		"update leases --namespace=kube-system":         "no",
		// The Secret of the certificate, and no other.
		"get secrets/smartnat-relay-tls --namespace=smartnat":    "yes",
		"update secrets/smartnat-relay-tls --namespace=smartnat": "yes",
		"delete secrets/smartnat-relay-tls --namespace=smartnat": "no",
		"create secrets --namespace=smartnat":                    "no",
		"get secrets/other --namespace=smartnat":                 "no",
		"update secrets/other --namespace=smartnat":              "no",
		"patch secrets/other --namespace=smartnat":               "no",
		"list secrets --namespace=smartnat":                      "no",
		"watch secrets --namespace=smartnat":                     "no",
		"get secrets/smartnat-relay-tls --namespace=default":     "no",
		"create secrets --namespace=default":                     "no",
		// The ConfigMap of the admission policy, and no other.
		"get configmaps/smartnat-grants --namespace=smartnat":    "yes",
		"update configmaps/smartnat-grants --namespace=smartnat": "yes",
		"delete configmaps/smartnat-grants --namespace=smartnat": "no",
		"update configmaps/other --namespace=smartnat":           "no",
		"create configmaps --namespace=smartnat":                 "no",
		"update configmaps/smartnat-grants --namespace=default":  "no",
	} {
		out, _ := p.kubectlAs(append([]string{"--server", clusterURL, "--client-certificate", p.path("admin.crt"), "--client-key",
			p.path("admin.key"), "auth", "can-i", "--as=system:serviceaccount:smartnat:smartnat-relay"}, strings.Fields(question)...)...)
		lines := strings.Fields(out)
		got[question], want[question] = lines[len(lines)-1], answer
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	// Its own Secret cannot become one that gets the token of another ServiceAccount.
	p.write("theft.yaml", []byte(`{apiVersion: v1, kind: Secret, type: kubernetes.io/service-account-token, metadata: {name: smartnat-relay-tls,
  namespace: smartnat, annotations: {kubernetes.io/service-account.name: default}}}`))
	out, err := p.kubectlAs("--server", clusterURL, "--client-certificate", p.path("admin.crt"), "--client-key", p.path("admin.key"),
		"--as=system:serviceaccount:smartnat:smartnat-relay", "replace", "--filename", p.path("theft.yaml"))
	if err == nil || !strings.Contains(out, "type: Invalid value") {
		t.Errorf("replacing its Secret by one for a token: %v: %s", err, out)
	}
}

// enrollment enrolls a gateway as the admin of the cluster.
func (p *controlPlane) enrollment(gateway string) *plugin.Enrollment {
	p.t.Helper()
	client, err := dynamic.NewForConfig(&rest.Config{Host: clusterURL, TLSClientConfig: rest.TLSClientConfig{
		CAFile: p.path("ca.crt"), CertFile: p.path("admin.crt"), KeyFile: p.path("admin.key")}})
	if err != nil {
		p.t.Fatal(err)
	}
	return &plugin.Enrollment{Client: client, Namespace: "smartnat", Gateway: gateway, Duration: 24 * time.Hour}
}

func testEnroll(t *testing.T, p *controlPlane) {
	edge := p.enrollment("edge-1")
	edge.Servers, edge.ServerName, edge.CertificateAuthority = []string{relayURL}, "127.0.0.1", p.read("ca.crt")+"\n"
	enroll := func() string {
		bundle, err := edge.Enroll(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := bundle.Marshal(); err != nil {
			t.Error(err)
		}
		if left := time.Until(bundle.Expires); left < 23*time.Hour || left > 24*time.Hour {
			t.Errorf("the token ends at %s", bundle.Expires)
		}
		return bundle.Relay.Token
	}
	token := enroll()

	t.Run("with defaults from the cluster", func(t *testing.T) { testEnrollByDefault(t, p) })

	client := p.client("")
	p.eventually("the relay to know the gateway", func() bool { return p.ask(client, listPath, token) == http.StatusOK })
	if got := p.ask(client, clusterURL+"/api/v1/services", token); got != http.StatusUnauthorized {
		t.Errorf("kube-apiserver: status %d, want 401", got)
	}
	ended := p.watch(client, token)
	old, token := token, enroll()
	ended()
	p.eventually("the earlier token to end", func() bool { return p.ask(client, listPath, old) == http.StatusUnauthorized })
	if got := p.ask(client, listPath, token); got != http.StatusOK {
		t.Errorf("the token of the second enrollment: %d", got)
	}
	t.Run("changed objects", func(t *testing.T) { testEnrollAgain(t, p, edge, enroll) })
	token = enroll()

	t.Run("a removed role", func(t *testing.T) {
		ended := p.watch(client, token)
		const accepted = `smartnat_relay_token_reviews_total{result="accepted"}`
		before, revoked := p.metric(accepted), p.metric("smartnat_relay_watches_revoked_total")
		p.eventually("several rechecks of the watch", func() bool { return p.metric(accepted) > before+3 })
		if got := p.metric("smartnat_relay_watches_revoked_total"); got != revoked {
			t.Errorf("%v watches of authorized users have ended", got)
		}
		p.kubectl("delete", "clusterrolebinding", "smartnat-gateway-edge-1")
		ended()
		p.eventually("requests to be forbidden", func() bool { return p.ask(client, listPath, token) == http.StatusForbidden })
		token = enroll()
		p.eventually("requests to be allowed again", func() bool { return p.ask(client, listPath, token) == http.StatusOK })
	})
	t.Run("a revoked gateway", func(t *testing.T) {
		ended := p.watch(client, token)
		if err := edge.Revoke(t.Context()); err != nil {
			t.Fatal(err)
		}
		ended()
		p.eventually("requests to be refused", func() bool { return p.ask(client, listPath, token) == http.StatusUnauthorized })
		again := enroll()
		p.eventually("the relay to know the gateway again", func() bool { return p.ask(client, listPath, again) == http.StatusOK })
		if got := p.ask(client, listPath, token); got != http.StatusUnauthorized {
			t.Errorf("an old token: %d, want 401", got)
		}
	})
	t.Run("an account that is not a gateway's", func(t *testing.T) {
		other := p.enrollment("smartnat-relay")
		other.Servers, other.CertificateAuthority = edge.Servers, edge.CertificateAuthority
		_, err := other.Enroll(t.Context())
		for what, err := range map[string]error{"enroll": err, "revoke": other.Revoke(t.Context())} {
			if err == nil || !strings.Contains(err.Error(), "does not belong to a gateway") {
				t.Errorf("%s: %v", what, err)
			}
		}
		p.kubectl("--namespace=smartnat", "get", "serviceaccount", "smartnat-relay")
	})
	if text := p.log.String(); strings.Contains(text, token) || strings.Contains(text, old) || !strings.Contains(text, listPath[len(relayURL):]) {
		t.Errorf("the log has a token (%t) or no requests", strings.Contains(text, token))
	}
}

// testEnrollByDefault enrolls a gateway by its name only.
func testEnrollByDefault(t *testing.T, p *controlPlane) {
	edge := p.enrollment("edge-2")
	fails := func(want string) {
		t.Helper()
		if _, err := edge.Enroll(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
	fails("name it, as in --server https://")
	p.write("node.yaml", []byte(`{apiVersion: v1, kind: Node, metadata: {name: node1}, spec: {podCIDRs: [10.244.1.0/24]},
		status: {addresses: [{type: Hostname, address: node1}, {type: InternalIP, address: 10.10.0.11}, {type: InternalIP, address: "fd00:10::11"}]}}`))
	p.kubectl("create", "--filename", p.path("node.yaml"))
	fails("the relay has no certificate yet")
	p.kubectl("--namespace=smartnat", "delete", "secret", relaySecret)
	fails("the relay is not installed: the Secret smartnat/smartnat-relay-tls does not exist")
	p.kubectl("--namespace=smartnat", "create", "secret", "generic", relaySecret, "--type=kubernetes.io/tls",
		"--from-file=tls.crt="+p.path("relay.crt"), "--from-file=tls.key="+p.path("relay.key"))
	fails("has no ca.crt: name the authority")
	if out := p.kubectl("--namespace=smartnat", "get", "serviceaccounts", "-o", "name"); strings.Contains(out, "edge-2") {
		t.Errorf("a failed enrollment leaves an account: %s", out)
	}
	p.kubectl("--namespace=smartnat", "delete", "secret", relaySecret)
	p.kubectl("--namespace=smartnat", "create", "secret", "generic", relaySecret, "--type=kubernetes.io/tls",
		"--from-file=tls.crt="+p.path("relay.crt"), "--from-file=tls.key="+p.path("relay.key"), "--from-file=ca.crt="+p.path("ca.crt"))
	got, err := edge.Enroll(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	port := p.kubectl("--namespace=smartnat", "get", "service", "smartnat-relay", "-o", "jsonpath={.spec.ports[0].nodePort}")
	want := enroll.Bundle{
		Gateway: "edge-2", Expires: got.Expires,
		Relay: enroll.Relay{
			// The Service has only IPv4.
			Servers: []string{"https://10.10.0.11:" + port}, ServerName: relayName, Token: got.Relay.Token,
			CertificateAuthority: p.read("ca.crt") + "\n",
		},
		Cluster: enroll.Cluster{
			ServiceNetworks: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")},
			Nodes: []enroll.Node{{
				Addresses:   []netip.Addr{netip.MustParseAddr("10.10.0.11"), netip.MustParseAddr("fd00:10::11")},
				PodNetworks: []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24")},
			}},
		},
	}
	if diff := cmp.Diff(want, *got, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	p.kubectl("delete", "clusterrolebinding", "smartnat-gateway-edge-2")
	p.kubectl("create", "clusterrolebinding", "smartnat-gateway-edge-2", "--clusterrole=view", "--user=another")
	fails("the ClusterRoleBinding smartnat-gateway-edge-2 exists and does not belong to a gateway edge-2")
}

// testEnrollAgain changes what an enrollment made, and enrolls again.
func testEnrollAgain(t *testing.T, p *controlPlane, edge *plugin.Enrollment, enroll func() string) {
	const name = "smartnat-gateway-edge-1"
	in := func(args ...string) string { return p.kubectl(append([]string{"--namespace=smartnat"}, args...)...) }
	in("patch", "role", name, "--type=json", `--patch=[{"op": "remove", "path": "/rules/0/resourceNames"}]`)
	in("patch", "rolebinding", name, "--type=json", `--patch=[{"op": "add", "path": "/subjects/-", "value": {"kind": "ServiceAccount", "name": "default", "namespace": "default"}}]`)
	in("patch", "clusterrolebinding", name, "--type=json", `--patch=[{"op": "replace", "path": "/subjects", "value": [{"kind": "ServiceAccount", "name": "default", "namespace": "default"}]}]`)
	in("patch", "serviceaccount", "edge-1", "--type=merge", `--patch={"automountServiceAccountToken": true, "metadata": {"annotations": {"smartnat.aureacentral.com/addresses": "192.0.2.1"}}}`)
	enroll()
	for what, want := range map[string]string{
		"role " + name + " -o jsonpath={.rules}":                                                          `[{"apiGroups":[""],"resourceNames":["edge-1"],"resources":["serviceaccounts/token"],"verbs":["create"]}]`,
		"rolebinding " + name + " -o jsonpath={.subjects[*].name}":                                        "edge-1 smartnat-relay",
		"clusterrolebinding " + name + " -o jsonpath={.subjects[*].name}":                                 "edge-1",
		"serviceaccount edge-1 -o jsonpath={.automountServiceAccountToken}":                               "false",
		`serviceaccount edge-1 -o jsonpath={.metadata.annotations.smartnat\.aureacentral\.com/addresses}`: "192.0.2.1",
		"secret -l smartnat.aureacentral.com/gateway=edge-1 -o jsonpath={.items[*].data}":                 "",
	} {
		if got := in(append([]string{"get"}, strings.Fields(what)...)...); got != want {
			t.Errorf("%s: %s, want %s", what, got, want)
		}
	}
	edge.Addresses = plugin.AllAddresses
	if err := edge.Limit(t.Context()); err != nil {
		t.Error(err)
	}
	edge.Addresses = ""
	if err := p.enrollment("edge-9").Limit(t.Context()); err != nil {
		t.Errorf("without addresses: %v", err)
	}
	missing := p.enrollment("edge-9")
	missing.Addresses = plugin.AllAddresses
	if err := missing.Limit(t.Context()); err == nil || err.Error() != "gateway edge-9 is not enrolled: the ServiceAccount smartnat/edge-9 does not exist" {
		t.Errorf("limit of a gateway that is not enrolled: %v", err)
	}
	fails := func(want string) {
		t.Helper()
		if _, err := edge.Enroll(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
	for _, kind := range []string{"role", "rolebinding"} {
		in("label", kind, name, "smartnat.aureacentral.com/gateway-")
		fails(name + " exists and does not belong to a gateway edge-1: delete it, or choose another name")
		in("delete", kind, name)
	}
	in("create", "rolebinding", name, "--clusterrole=view", "--serviceaccount=smartnat:edge-1")
	in("label", "rolebinding", name, "smartnat.aureacentral.com/gateway=edge-1")
	fails("the RoleBinding " + name + " exists and binds something else: delete it")
	in("delete", "rolebinding", name)
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
		"smartnat_relay_synced 1\n", `smartnat_relay_objects{resource="services"} 1` + "\n", "smartnat_relay_watches_revoked_total 4\n",
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
