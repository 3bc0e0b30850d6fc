// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/rest"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/pkg/credential"
)

// ofTwoGateways are what two gateways serve: web at 192.0.2.1 exists already, bank at 192.0.2.2 is not for edge-1.
const ofTwoGateways = `
apiVersion: v1
kind: Namespace
metadata: {name: bank}
---
apiVersion: smartnat.aureacentral.com/v1alpha1
kind: Mapping
metadata: {name: bank, namespace: bank, labels: {tier: bank}}
spec: {addresses: [192.0.2.2], serviceName: bank, ports: [{port: 443}]}
---
apiVersion: v1
kind: Service
metadata: {name: bank, namespace: bank, labels: {tier: bank}}
spec: {ports: [{port: 443}], clusterIP: 10.96.0.43}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: bank-1, namespace: bank, labels: {kubernetes.io/service-name: bank}}
addressType: IPv4
ports: [{port: 8443}]
endpoints: [{addresses: [10.244.1.43]}]
---
apiVersion: smartnat.aureacentral.com/v1alpha1
kind: PortGrant
metadata: {name: bank}
spec: {addresses: [192.0.2.2], namespaces: [bank]}
---
apiVersion: smartnat.aureacentral.com/v1alpha1
kind: PortGrant
metadata: {name: shop}
spec: {addresses: [192.0.2.0/31], namespaces: [shop]}
`

// TestGatewaysOfARealCluster limits gateways to addresses by kubectl smartnat enroll, as an administrator does, and reads with their tokens.
func TestGatewaysOfARealCluster(t *testing.T) {
	p := startControlPlane(t)
	startRelay(t, p, "--recheck-interval=1s", "--review-cache-ttl=1s")
	p.write("bank.yaml", []byte(ofTwoGateways))
	p.kubectl("apply", "--filename", p.path("bank.yaml"))
	enroll := func(gateway, addresses string) []string {
		t.Helper()
		e := p.enrollment(gateway)
		e.Servers, e.ServerName, e.CertificateAuthority, e.Addresses = []string{relayURL}, "127.0.0.1", p.read("ca.crt")+"\n", addresses
		bundle, err := e.Enroll(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return []string{"--server", relayURL, "--token", bundle.Relay.Token}
	}
	all, edge := enroll("edge-0", ""), enroll("edge-1", "192.0.2.1")
	get := func(as []string, args ...string) string {
		out, err := p.kubectlAs(append(append([]string{"get"}, args...), as...)...)
		if err != nil {
			return "error: " + out
		}
		return out
	}
	const kinds = "mappings,services,endpointslices,portgrants,namespaces"
	names := func(as []string) string {
		return strings.Join(strings.Fields(get(as, kinds, "-A", "-o", "custom-columns=:metadata.name", "--no-headers")), " ")
	}
	p.eventually("the gateway for all to see all", func() bool { return names(all) == "bank web bank web bank-1 web-1 bank shop bank shop" })
	p.eventually("edge-1 to see its address", func() bool { return names(edge) == strings.Join([]string{"web", "web", "web-1", "shop", "shop"}, " ") })
	for _, ask := range [][]string{
		{"mappings", "-n", "bank"}, {"mappings", "-n", "bank", "bank"}, {"services", "-n", "bank", "bank"}, {"endpointslices", "-n", "bank", "bank-1"},
		{"portgrant", "bank"}, {"namespace", "bank"}, {"mappings,services", "-A", "-l", "tier=bank"},
		{"mappings,services", "-A", "--field-selector", "metadata.name=bank"}, {"--raw", listPath[len(relayURL):] + "?limit=1"},
		{"--raw", "/api/v1/services?watch=true&timeoutSeconds=1"}, {"mappings", "-A", "-o", "wide"},
	} {
		if out := get(edge, ask...); strings.Contains(out, "192.0.2.2") || strings.Contains(out, "10.96.0.43") || strings.Contains(out, "10.244.1.43") {
			t.Errorf("get %s shows\n%s", strings.Join(ask, " "), out)
		}
	}

	t.Run("reports", func(t *testing.T) {
		if status := p.report(edge[3], "bank", "bank", "192.0.2.2"); status != http.StatusNotFound {
			t.Errorf("about a Mapping that it may not see: status %d, want 404", status)
		}
		if status := p.report(edge[3], "shop", "web", "192.0.2.1"); status != http.StatusOK {
			t.Errorf("about its own: status %d", status)
		}
	})

	t.Run("a running watch", func(t *testing.T) {
		cmd := p.kubectlCommand(t.Context(), append([]string{"get", "mappings", "-A", "-w", "--output-watch-events", "--no-headers"}, edge...)...)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
		lines := bufio.NewScanner(out)
		expect := func(event, name string) {
			t.Helper()
			for lines.Scan() {
				got := strings.Fields(lines.Text())
				if got[0] == "MODIFIED" { // its status
					continue
				}
				if got[0] != event || got[2] != name {
					t.Errorf("line %q, want %s of %s", got, event, name)
				}
				return
			}
			t.Fatalf("kubectl ended: %v", lines.Err())
		}
		annotate := func(value string) {
			p.kubectl("--namespace=smartnat", "annotate", "--overwrite", "serviceaccount", "edge-1", v1alpha1.AddressesAnnotation+value)
		}
		expect("ADDED", "web")
		annotate("=192.0.2.0/30")
		expect("ADDED", "bank")
		annotate("=192.0.2.2")
		expect("DELETED", "web")
		annotate("=192.0.2.2 192.0.2.1")
		expect("DELETED", "bank")
		p.eventually("the log to name the mistake", func() bool {
			return strings.Contains(p.log.String(), "malformed addresses, gateway sees nothing") && strings.Contains(p.log.String(), "is neither an address such as")
		})
		edge = enroll("edge-1", "") // leaves it as it is
		if got := names(edge); strings.Contains(got, "web") || strings.Contains(got, "bank") {
			t.Errorf("with a malformed annotation it sees %s", got)
		}
		limited := p.enrollment("edge-1")
		limited.Addresses = "all"
		if err := limited.Limit(t.Context()); err != nil {
			t.Fatal(err)
		}
		p.eventually("edge-1 to see all", func() bool { return names(edge) == names(all) })
	})

	t.Run("a gateway that is a node", func(t *testing.T) { testNode(t, p) })
	t.Run("an enrollment of an earlier version", func(t *testing.T) { testUnboundTokens(t, p, func() string { return enroll("edge-3", "")[3] }) })
	t.Run("copies of a token", func(t *testing.T) { testCopies(t, p, func() string { return enroll("edge-4", "")[3] }) })
	t.Run("enrollments that fail", func(t *testing.T) { testFailedEnrollments(t, p) })
	t.Run("enrollments at the same time", func(t *testing.T) { testEnrollmentsAtOnce(t, p) })
	t.Run("renewal", func(t *testing.T) { testRenewal(t, p, edge[3]) })
}

// testNode enrolls a gateway as a node, and then again as none.
func testNode(t *testing.T, p *controlPlane) {
	e := p.enrollment("edge-5")
	e.Servers, e.ServerName, e.CertificateAuthority, e.Node = []string{relayURL}, "127.0.0.1", p.read("ca.crt")+"\n", "worker-1"
	if _, err := e.Enroll(t.Context()); err == nil || !strings.Contains(err.Error(), `the cluster has no node "worker-1"`) {
		t.Errorf("a node that does not exist: %v", err)
	}
	p.write("node.yaml", []byte("apiVersion: v1\nkind: Node\nmetadata: {name: worker-1}\n"))
	p.kubectl("apply", "--filename", p.path("node.yaml"))
	client := p.client("")
	for _, node := range []string{"worker-1", ""} {
		e.Node = node
		bundle, err := e.Enroll(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if bundle.Node != node {
			t.Errorf("the bundle is of node %q, want %q", bundle.Node, node)
		}
		read := func(accept string) string {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, relayURL+"/apis/discovery.k8s.io/v1/endpointslices", nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Accept", accept)
			req.Header.Set("Authorization", "Bearer "+bundle.Relay.Token)
			resp, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = resp.Body.Close() }()
			text, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Fatal(err)
			}
			return string(text)
		}
		p.eventually(fmt.Sprintf("the nodes of endpoints as node %q", node), func() bool {
			text := read("application/json;profile=" + v1alpha1.GatewayProfile)
			return strings.Contains(text, "10.244.1.2") && strings.Contains(text, `"nodeName":"do-not-tell"`) == (node != "")
		})
		if text := read("application/json"); !strings.Contains(text, "10.244.1.2") || strings.Contains(text, "do-not-tell") {
			t.Errorf("as node %q, whole objects: %s", node, text)
		}
	}
}

// renewalOf asks for a token as smartnatd does.
func (p *controlPlane) renewalOf(gateway, token string) (string, error) {
	p.t.Helper()
	request, err := credential.NewRequest(&rest.Config{Host: relayURL, BearerToken: token, TLSClientConfig: rest.TLSClientConfig{CAFile: p.path("ca.crt")}})
	if err != nil {
		p.t.Fatal(err)
	}
	return request(p.t.Context(), "smartnat", gateway)
}

// testCopies renews a stolen bundle, and ends all that came of it by another enrollment, and by the deletion of the Secret.
func testCopies(t *testing.T, p *controlPlane, enroll func() string) {
	client := p.client("")
	for what, end := range map[string]func(){
		"another enrollment": func() { enroll() },
		"the Secret that is gone": func() {
			p.kubectl("--namespace=smartnat", "delete", "secret", "-l", "smartnat.aureacentral.com/gateway=edge-4")
		},
	} {
		bundle := enroll()
		copied, err := p.renewalOf("edge-4", bundle)
		if err != nil {
			t.Fatal(err)
		}
		again, err := p.renewalOf("edge-4", copied)
		if err != nil {
			t.Fatal(err)
		}
		end()
		for name, token := range map[string]string{"bundle": bundle, "renewed": copied, "renewed again": again} {
			p.eventually(what+" to end the token: "+name, func() bool { return p.ask(client, listPath, token) == http.StatusUnauthorized })
			if _, err := p.renewalOf("edge-4", token); !apierrors.IsUnauthorized(err) {
				t.Errorf("%s: renewal of the %s token: %v, want 401", what, name, err)
			}
			if out := p.review(token); out != "false" {
				t.Errorf("%s: the cluster authenticates the %s token: %s", what, name, out)
			}
		}
	}
	if got := p.ask(client, listPath, enroll()); got != http.StatusOK {
		t.Errorf("a new enrollment: status %d", got)
	}
}

// review returns whether the cluster itself authenticates a token for the relay, once it says no or time is over.
func (p *controlPlane) review(token string) (said string) {
	p.t.Helper()
	p.write("review.json", fmt.Appendf(nil, `{"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": %q, "audiences": ["smartnat-relay"]}}`, token))
	p.eventually("the cluster to refuse the token", func() bool {
		var review struct{ Status struct{ Authenticated bool } }
		if err := json.Unmarshal([]byte(p.kubectl("create", "--filename", p.path("review.json"), "-o", "json")), &review); err != nil {
			p.t.Fatal(err)
		}
		said = strconv.FormatBool(review.Status.Authenticated)
		return !review.Status.Authenticated
	})
	return said
}

// testUnboundTokens uses and renews the token of a gateway that an earlier version enrolled, without a Secret, and enrolls it again.
func testUnboundTokens(t *testing.T, p *controlPlane, enroll func() string) {
	client := p.client("")
	bound := enroll()
	p.kubectl("--namespace=smartnat", "annotate", "serviceaccount", "edge-3", v1alpha1.EnrollmentAnnotation+"-")
	p.kubectl("--namespace=smartnat", "delete", "secret", "-l", "smartnat.aureacentral.com/gateway=edge-3")
	unbound := p.kubectl("--namespace=smartnat", "create", "token", "edge-3", "--audience=smartnat-relay")
	p.eventually("the relay to take the token", func() bool { return p.ask(client, listPath, unbound) == http.StatusOK })
	p.eventually("the cluster to refuse the bound one", func() bool { return p.ask(client, listPath, bound) == http.StatusUnauthorized })
	renewed, err := p.renewalOf("edge-3", unbound)
	if err != nil {
		t.Fatal(err)
	}
	if got := p.ask(client, listPath, renewed); got != http.StatusOK {
		t.Errorf("the renewed token: status %d", got)
	}
	ended := p.watch(client, renewed)
	token := enroll()
	ended()
	for name, old := range map[string]string{"first": unbound, "renewed": renewed} {
		p.eventually("the relay to refuse the token: "+name, func() bool { return p.ask(client, listPath, old) == http.StatusUnauthorized })
	}
	if got := p.ask(client, listPath, token); got != http.StatusOK {
		t.Errorf("the token of the new enrollment: status %d", got)
	}
	if got := p.ask(client, listPath, p.kubectl("--namespace=smartnat", "create", "token", "edge-3", "--audience=smartnat-relay")); got != http.StatusUnauthorized {
		t.Errorf("a token that is bound to nothing: status %d, want 401", got)
	}
}

// testRenewal renews the token of edge-1 as smartnatd does, and asks for what it must not get.
func testRenewal(t *testing.T, p *controlPlane, enrolled string) {
	dir := t.TempDir()
	files := credential.Files{Enrolled: filepath.Join(dir, "enrolled"), Kept: filepath.Join(dir, "kept")}
	if err := os.WriteFile(files.Enrolled, []byte(enrolled), 0o600); err != nil {
		t.Fatal(err)
	}
	request, err := credential.NewRequest(&rest.Config{Host: relayURL, BearerToken: enrolled, TLSClientConfig: rest.TLSClientConfig{CAFile: p.path("ca.crt")}})
	if err != nil {
		t.Fatal(err)
	}
	keeper := &credential.Keeper{Files: files, Request: request, Log: logrus.New()}
	begins := time.Now().Add(25 * time.Hour) // the enrollment of this test is for a day
	keeper.Step(t.Context(), begins)
	kept, err := os.ReadFile(files.Kept)
	if err != nil || string(kept) == enrolled {
		t.Fatalf("the token was not renewed: %v", err)
	}
	token, err := credential.Parse(string(kept))
	if lifetime := token.Ends.Sub(token.Begins); err != nil || lifetime != 7*24*time.Hour || token.Subject != "system:serviceaccount:smartnat:edge-1" {
		t.Errorf("a token of %s for %s, %v", token.Subject, lifetime, err)
	}
	client := p.client("")
	if got := p.ask(client, listPath, string(kept)); got != http.StatusOK {
		t.Errorf("relay: status %d with the renewed token", got)
	}
	if got := p.ask(client, clusterURL+"/api/v1/services", string(kept)); got != http.StatusUnauthorized {
		t.Errorf("kube-apiserver: status %d with the renewed token, want 401", got)
	}
	for _, other := range []string{"edge-0", "smartnat-relay", "default"} {
		if _, err := request(t.Context(), "smartnat", other); !apierrors.IsForbidden(err) {
			t.Errorf("a token of %s: %v, want 403", other, err)
		}
	}
	relayMay := func(account string) string {
		out, _ := p.kubectlAs("--server", clusterURL, "--client-certificate", p.path("admin.crt"), "--client-key", p.path("admin.key"), "auth", "can-i",
			"--as=system:serviceaccount:smartnat:smartnat-relay", "create", "serviceaccounts/"+account, "--subresource=token", "--namespace=smartnat")
		lines := strings.Fields(out)
		return lines[len(lines)-1]
	}
	for account, want := range map[string]string{"edge-1": "yes", "smartnat-relay": "no", "default": "no", "gateway": "no"} {
		if got := relayMay(account); got != want {
			t.Errorf("the relay may make a token of %s: %s, want %s", account, got, want)
		}
	}
	// RBAC lets it, and the policy smartnat-tokens says what for.
	made := func(args ...string) string {
		out, _ := p.kubectlAs(append([]string{"--server", clusterURL, "--client-certificate", p.path("admin.crt"), "--client-key", p.path("admin.key"),
			"--as=system:serviceaccount:smartnat:smartnat-relay", "--namespace=smartnat", "create", "token", "edge-1"}, args...)...)
		return out
	}
	const refused = "the relay may make tokens only for the audience smartnat-relay"
	p.eventually("tokens for the API server to be refused", func() bool { return strings.Contains(made(), refused) })
	if out := made("--audience=smartnat-relay", "--audience=https://kubernetes.default.svc"); !strings.Contains(out, refused) {
		t.Errorf("a token for both: %s", out)
	}
	if _, err := credential.Parse(made("--audience=smartnat-relay")); err != nil {
		t.Errorf("a token for relays: %v", err)
	}
	if err := p.enrollment("edge-1").Revoke(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.eventually("renewals to be refused", func() bool {
		_, err := request(t.Context(), "smartnat", "edge-1")
		return apierrors.IsUnauthorized(err)
	})
	// The API server follows a change of roles with a delay.
	p.eventually("the relay to have no right to make a token of a revoked gateway", func() bool { return relayMay("edge-1") == "no" })
	if said := p.log.String(); strings.Contains(said, string(kept)) {
		t.Error("the log has a token")
	}
}

// report reports as the gateway edge-1 about a Mapping, and returns the status of the answer.
func (p *controlPlane) report(token, namespace, name, address string) int {
	p.t.Helper()
	body := fmt.Sprintf(`{"apiVersion":"smartnat.aureacentral.com/v1alpha1","kind":"Mapping","metadata":{"name":%q,"namespace":%q},
		"status":{"instances":[{"name":"edge-1","addresses":[%q],"observedGeneration":1,"programmed":true,"ready":true}]}}`, name, namespace, address)
	url := relayURL + "/apis/smartnat.aureacentral.com/v1alpha1/namespaces/" + namespace + "/mappings/" + name + "/status?fieldManager=smartnatd&force=true"
	req, err := http.NewRequestWithContext(p.t.Context(), http.MethodPatch, url, strings.NewReader(body))
	if err != nil {
		p.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", "application/apply-patch+yaml")
	response, err := p.client("").Do(req)
	if err != nil {
		p.t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	return response.StatusCode
}
