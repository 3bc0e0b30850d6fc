// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"bufio"
	"context"
	"crypto/x509/pkix"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/sirupsen/logrus"
)

const relayURL = "https://127.0.0.1:8443"

// objects are a Service with endpoints that a Mapping names, and a Service that no Mapping names.
const objects = `
apiVersion: smartnat.aureacentral.com/v1alpha1
kind: Mapping
metadata: {name: web, namespace: shop, annotations: {secret: do-not-tell}}
spec: {addresses: [192.0.2.1], serviceName: web, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop, annotations: {secret: do-not-tell}}
spec: {ports: [{port: 80}], clusterIP: 10.96.0.80, externalIPs: [192.0.2.77]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{port: 8080}]
endpoints: [{addresses: [10.244.1.2], nodeName: do-not-tell, conditions: {ready: true}}]
---
apiVersion: v1
kind: Service
metadata: {name: unmapped, namespace: shop}
spec: {ports: [{port: 81}]}
`

// startRelay installs the file of a release as README.md says, runs the relay with their ServiceAccount only, and returns
// the token of a gateway. flags follow the flags that every test needs.
func startRelay(t *testing.T, p *controlPlane, flags ...string) (token string) {
	t.Helper()
	if out, err := p.writeManifest(installedImage); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if out := p.kubectl("apply", "--filename", p.path("install.yaml"), "--validate=strict"); strings.Contains(out, "Warning") {
		t.Errorf("the API server warns about the manifests:\n%s", out)
	}
	p.kubectl("wait", "--for=condition=Established", "crd/mappings.smartnat.aureacentral.com", "--timeout=30s")
	p.kubectl("create", "namespace", "shop")
	p.write("objects.yaml", []byte(objects))
	p.kubectl("apply", "--filename", p.path("objects.yaml"))

	inSmartNat := "--namespace=smartnat"
	p.kubectl(inSmartNat, "create", "serviceaccount", "gateway")
	p.kubectl("create", "clusterrolebinding", "gateway", "--clusterrole=smartnat-gateway", "--serviceaccount=smartnat:gateway",
		"--user=certified-gateway")
	relayToken := p.kubectl(inSmartNat, "create", "token", "smartnat-relay")
	p.issue("relay", pkix.Name{CommonName: "smartnat-relay"})

	ctx, cancel := context.WithCancel(context.Background())
	status := make(chan int, 1)
	args := append([]string{
		"--kubeconfig", p.tokenKubeconfig("relay.kubeconfig", relayToken), "--bind-address=127.0.0.1",
		"--tls-cert-file", p.path("relay.crt"), "--tls-private-key-file", p.path("relay.key"),
		"--client-ca-file", p.path("ca.crt"),
	}, flags...)
	go func() { status <- run(ctx, args, io.Discard, io.MultiWriter(t.Output(), &p.log), alone) }()
	t.Cleanup(func() {
		cancel()
		if got := <-status; got != 0 {
			t.Errorf("the relay exited with %d, want 0", got)
		}
	})
	anonymous := p.client("")
	p.eventually("the relay to be ready", func() bool { return get(anonymous, relayURL+"/readyz") == http.StatusOK })
	return p.kubectl(inSmartNat, "create", "token", "gateway", "--audience=smartnat-relay")
}

func TestRelayOfARealCluster(t *testing.T) {
	p := startControlPlane(t)
	token := startRelay(t, p, "--log-level=debug") // to log each request, for the check that no secret is in the log
	gateway := []string{"--server", relayURL, "--token", token}

	t.Run("kubectl sees only mapped objects", func(t *testing.T) {
		for _, test := range []struct {
			args []string
			want string
		}{
			{[]string{"get", "mappings.smartnat.aureacentral.com", "-A", "-o", "name"}, "mapping.smartnat.aureacentral.com/web\n"},
			{[]string{"get", "smap", "-A", "--no-headers", "-o", "custom-columns=:metadata.name"}, "web\n"},
			{[]string{"get", "services", "-A", "-o", "name"}, "service/web\n"},
			{[]string{"get", "services", "-n", "shop", "web", "-o", "jsonpath={.spec.clusterIP} {.spec.externalIPs}"}, "10.96.0.80 "},
			{[]string{"get", "endpointslices", "-n", "shop", "-o", "jsonpath={.items[*].endpoints[*].addresses}"}, `["10.244.1.2"]`},
			{[]string{"api-resources", "-o", "name", "--sort-by=name"},
				"endpointslices.discovery.k8s.io\nmappings.smartnat.aureacentral.com\nnamespaces\nportgrants.smartnat.aureacentral.com\nservices\n"},
		} {
			got, err := p.kubectlAs(append(test.args, gateway...)...)
			if diff := cmp.Diff(test.want, got); diff != "" || err != nil {
				t.Errorf("kubectl %s: %v (-want +got)\n%s", strings.Join(test.args, " "), err, diff)
			}
		}
		for _, kind := range []string{"mappings", "services", "endpointslices", "portgrants", "namespaces"} {
			out, err := p.kubectlAs(append([]string{"get", kind, "-A", "-o", "yaml", "--show-managed-fields"}, gateway...)...)
			if err != nil || strings.Contains(out, "do-not-tell") || strings.Contains(out, "fieldsV1") || kind != "mappings" && strings.Contains(out, "managedFields") {
				t.Errorf("get %s: %v, shows data that must not leave the cluster:\n%s", kind, err, out)
			}
		}
	})

	t.Run("the last writer of a spec", func(t *testing.T) { testSpecWriter(t, p, gateway) })
	t.Run("kubectl get --watch follows", func(t *testing.T) { testWatch(t, p, gateway) })
	t.Run("access", func(t *testing.T) { testAccess(t, p, token) })
}

// testSpecWriter writes a Mapping by different managers, and reads from the relay which of them wrote the spec last.
func testSpecWriter(t *testing.T, p *controlPlane, gateway []string) {
	const path = `jsonpath={range .metadata.managedFields[*]}{.manager} {.operation} {.subresource}{.fieldsV1}{"\n"}{end}`
	web := func(manager, patch string, more ...string) {
		t.Helper()
		p.kubectl(append([]string{"patch", "mapping", "web", "--namespace=shop", "--type=merge", "--field-manager=" + manager, "--patch=" + patch}, more...)...)
	}
	shown := func(want string) func() bool {
		return func() bool {
			got, err := p.kubectlAs(append([]string{"get", "mapping", "web", "--namespace=shop", "-o", path, "--show-managed-fields"}, gateway...)...)
			return err == nil && got == want
		}
	}
	web("tenant", `{"spec":{"allowedSources":["203.0.113.0/24"]}}`)
	p.eventually("the manager that wrote the spec", shown("tenant Update \n"))
	web("labeller", `{"metadata":{"labels":{"spec":"x"}}}`)
	web("reporter", `{"status":{"serviceVIP":"10.96.0.80"}}`, "--subresource=status")
	p.eventually("the label", func() bool {
		got, err := p.kubectlAs(append([]string{"get", "mapping", "web", "--namespace=shop", "-o", "jsonpath={.metadata.labels.spec} {.status.serviceVIP}"}, gateway...)...)
		return err == nil && got == "x 10.96.0.80"
	})
	if !shown("tenant Update \n")() {
		t.Error("a label, or a write of status, counts as a write of the spec")
	}
	// The API server records no manager for a field that is removed (apis/grants.md).
	web("remover", `{"spec":{"allowedSources":null}}`)
	p.eventually("the sources to be gone", func() bool {
		got, err := p.kubectlAs(append([]string{"get", "mapping", "web", "--namespace=shop", "-o", "jsonpath={.spec.allowedSources}"}, gateway...)...)
		return err == nil && got == ""
	})
	if shown("remover Update \n")() {
		t.Error("the manager that removed a field is known: say so in apis/grants.md")
	}
	p.kubectl("label", "mapping", "web", "--namespace=shop", "spec-")
}

// testWatch reads the output of kubectl while a Mapping is created and deleted.
func testWatch(t *testing.T, p *controlPlane, gateway []string) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := p.kubectlCommand(ctx, append([]string{"get", "mappings", "-A", "-w", "--output-watch-events"}, gateway...)...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	next := func() []string {
		if !lines.Scan() {
			t.Fatalf("kubectl ended: %v, %v", lines.Err(), cmd.Wait())
		}
		return strings.Fields(lines.Text())
	}
	want := []string{"EVENT", "NAMESPACE", "NAME", "ADDRESSES", "SERVICE", "PORTS", "READY", "REASON", "AGE"}
	if diff := cmp.Diff(want, next()); diff != "" {
		t.Errorf("headers (-want +got)\n%s", diff)
	}
	expect := func(event, name string) {
		t.Helper()
		got := next()
		for got[0] == "MODIFIED" && got[2] != name {
			got = next() // skip changes of another Mapping's status
		}
		if got[0] != event || got[2] != name || event != "ADDED" && got[3] != "192.0.2.2" {
			t.Errorf("line %q, want %s of %s", got, event, name)
		}
	}
	expect("ADDED", "web")
	mapping, _, _ := strings.Cut(objects, "---")
	p.write("new.yaml", []byte(strings.NewReplacer("name: web,", "name: new,", "192.0.2.1]", "192.0.2.2]").Replace(mapping)))
	p.kubectl("create", "--filename", p.path("new.yaml"))
	expect("ADDED", "new")
	expect("MODIFIED", "new") // the relay has written its status
	p.kubectl("delete", "--filename", p.path("new.yaml"))
	expect("DELETED", "new")
	cancel()
	_ = cmd.Wait()
}

// testAccess sends requests of clients without access, and requests of authorized clients by each kind of credential.
func testAccess(t *testing.T, p *controlPlane, token string) {
	p.issue("certified-gateway", pkix.Name{CommonName: "certified-gateway"})
	p.issue("certified-stranger", pkix.Name{CommonName: "certified-stranger"})
	p.kubectl("--namespace=smartnat", "create", "serviceaccount", "stranger")
	stranger := p.kubectl("--namespace=smartnat", "create", "token", "stranger", "--audience=smartnat-relay")
	forTheCluster := p.kubectl("--namespace=smartnat", "create", "token", "gateway")
	withKey := func(name string) []string {
		return []string{"--client-certificate", p.path(name + ".crt"), "--client-key", p.path(name + ".key")}
	}
	for _, test := range []struct {
		name  string
		as    []string
		fails string // kubectl's error, empty if access is allowed
	}{
		{"the gateway's token", []string{"--token", token}, ""},
		{"the gateway's certificate", withKey("certified-gateway"), ""},
		{"a token of another user", []string{"--token", stranger},
			`Error from server (Forbidden): mappings.smartnat.aureacentral.com is forbidden: User "system:serviceaccount:smartnat:stranger" cannot list resource "mappings" in API group "smartnat.aureacentral.com" at the cluster scope`},
		{"a certificate of another user", withKey("certified-stranger"),
			`Error from server (Forbidden): mappings.smartnat.aureacentral.com is forbidden: User "certified-stranger" cannot list resource "mappings" in API group "smartnat.aureacentral.com" at the cluster scope`},
		{"a token for another audience", []string{"--token", forTheCluster}, "error: You must be logged in to the server (Unauthorized)"},
		{"an invalid token", []string{"--token", "none"}, "error: You must be logged in to the server (Unauthorized)"},
	} {
		t.Run(test.name, func(t *testing.T) {
			out, err := p.kubectlAs(append([]string{"--server", relayURL, "get", "--raw",
				"/apis/smartnat.aureacentral.com/v1alpha1/mappings"}, test.as...)...)
			if test.fails == "" {
				if err != nil || !strings.Contains(out, `"MappingList"`) {
					t.Errorf("%v: %s", err, out)
				}
				return
			}
			if err == nil || strings.TrimSpace(out) != test.fails {
				t.Errorf("%v: %s, want %s", err, out, test.fails)
			}
		})
	}
	t.Run("the log has no token", func(t *testing.T) {
		said := p.log.String()
		for _, secret := range []string{token, stranger, forTheCluster} {
			if strings.Contains(said, secret) {
				t.Errorf("the log has the token %s", secret)
			}
		}
		if !strings.Contains(said, "system:serviceaccount:smartnat:gateway") && !strings.Contains(said, "certified-gateway") {
			t.Error("the log names no user: is it the relay's log at debug level?")
		}
	})
	t.Run("an authorized user cannot write", func(t *testing.T) {
		out, err := p.kubectlAs("--server", relayURL, "--token", token, "--namespace=shop", "delete", "mapping", "web")
		if err == nil || !strings.Contains(out, "(MethodNotAllowed)") {
			t.Errorf("%v: %s, want MethodNotAllowed", err, out)
		}
	})
}

// alone leaves the libraries' log unchanged: tests run several relays in one process.
func alone(logrus.FieldLogger) {}
