// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"context"
	"crypto/x509/pkix"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	applyv1alpha1 "github.com/smartnat/smartnat/generated/applyconfiguration/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/generated/clientset/versioned"
)

// rival asks for the port of the Mapping web.
const rival = `
apiVersion: smartnat.aureacentral.com/v1alpha1
kind: Mapping
metadata: {name: zebra, namespace: shop}
spec: {addresses: [192.0.2.1, "2001:db8::1"], serviceName: web, ports: [{port: 80}, {port: 8081, servicePort: 80}]}
`

// startReplica starts a relay that accepts status reports and waits until it is ready.
func startReplica(t *testing.T, p *controlPlane, port, kubeconfig string) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan int, 1)
	go func() {
		ended <- run(ctx, []string{
			"--kubeconfig", kubeconfig, "--bind-address=127.0.0.1", "--secure-port", port,
			"--tls-cert-file", p.path("relay.crt"), "--tls-private-key-file", p.path("relay.key"),
		}, io.Discard, t.Output(), alone)
	}()
	t.Cleanup(func() {
		cancel()
		if got := <-ended; got != 0 {
			t.Errorf("the relay exited with %d, want 0", got)
		}
	})
	anonymous := p.client("")
	p.eventually("the relay to be ready", func() bool {
		return get(anonymous, "https://127.0.0.1:"+port+"/readyz") == http.StatusOK
	})
}

// startReplicas installs the manifests and starts two relays with their permissions.
func startReplicas(t *testing.T, p *controlPlane) (gatewayToken string) {
	t.Helper()
	p.kubectl("apply", "--filename=../../apis/crds")
	p.kubectl("wait", "--for=condition=Established", "crd/mappings.smartnat.aureacentral.com", "--timeout=30s")
	if out := p.kubectl("apply", "--kustomize", "../../relay/manifests", "--validate=strict"); strings.Contains(out, "Warning") {
		t.Errorf("the API server warns about the manifests:\n%s", out)
	}
	p.kubectl("create", "namespace", "shop")
	p.kubectl("--namespace=smartnat", "create", "serviceaccount", "gw1")
	p.kubectl("create", "clusterrolebinding", "gw1", "--clusterrole=smartnat-gateway", "--serviceaccount=smartnat:gw1")
	p.issue("relay", pkix.Name{CommonName: "smartnat-relay"})
	kubeconfig := p.tokenKubeconfig("relay.kubeconfig", p.kubectl("--namespace=smartnat", "create", "token", "smartnat-relay"))
	startReplica(t, p, "8443", kubeconfig)
	startReplica(t, p, "8444", kubeconfig)
	return p.kubectl("--namespace=smartnat", "create", "token", "gw1", "--audience=smartnat-relay")
}

func TestStatusInARealCluster(t *testing.T) {
	p := startControlPlane(t)
	token := startReplicas(t, p)
	client, err := versioned.NewForConfig(&rest.Config{
		Host: relayURL, BearerToken: token, TLSClientConfig: rest.TLSClientConfig{CAFile: p.path("ca.crt")},
	})
	if err != nil {
		t.Fatal(err)
	}
	report := func(name string, entries ...*applyv1alpha1.InstanceStatusApplyConfiguration) error {
		_, err := client.SmartnatV1alpha1().Mappings("shop").ApplyStatus(t.Context(), applyv1alpha1.Mapping(name, "shop").
			WithStatus(applyv1alpha1.MappingStatus().WithInstances(entries...)), metav1.ApplyOptions{FieldManager: "anything", Force: true})
		return err
	}
	wait := func(what, mapping string) {
		t.Helper()
		p.kubectl("wait", "--namespace=shop", "--for=condition="+what, "mapping/"+mapping, "--timeout=30s")
	}
	p.write("objects.yaml", []byte(objects))
	p.write("rival.yaml", []byte(rival))
	p.kubectl("apply", "--filename", p.path("objects.yaml"))
	wait("Accepted", "web")
	wait("ResolvedRefs", "web")
	p.kubectl("apply", "--filename", p.path("rival.yaml"))
	wait("Accepted=False", "zebra")
	wait("ResolvedRefs=False", "zebra")

	gw1 := func() *applyv1alpha1.InstanceStatusApplyConfiguration {
		return applyv1alpha1.InstanceStatus().WithName("gw1").WithAddresses("192.0.2.1").WithEndpoints(0).WithObservedGeneration(1)
	}
	for _, name := range []string{"web", "zebra"} {
		// The relay may not know the Mapping yet.
		p.eventually("the report about "+name+" to be accepted", func() bool { return report(name, gw1().WithProgrammed(true).WithReady(true)) == nil })
	}
	wait("Programmed", "web")
	wait("Programmed", "zebra")
	wait("Ready", "web")
	wait("Ready=False", "zebra")

	t.Run("kubectl get mappings", func(t *testing.T) {
		var got []string
		for _, line := range strings.Split(p.kubectl("get", "mappings", "--all-namespaces", "-o", "wide"), "\n") {
			fields := strings.Fields(line)
			got = append(got, strings.Join(slices.Delete(fields, 7, 8), "|")) // all columns except the age
		}
		want := []string{
			"NAMESPACE|NAME|ADDRESSES|SERVICE|PORTS|READY|REASON|MODE|ENDPOINTS|GATEWAYS",
			"shop|web|192.0.2.1|web|80/tcp|True|Ready|service|gw1",
			"shop|zebra|192.0.2.1,2001:db8::1|web|80/tcp,8081->80/tcp|False|PortConflict|service|gw1",
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("-want +got\n%s", diff)
		}
	})

	t.Run("field managers", func(t *testing.T) {
		got := p.kubectl("get", "mapping", "web", "--namespace=shop", "--show-managed-fields",
			"-o", `jsonpath={range .metadata.managedFields[?(@.subresource=="status")]}{.manager} {.operation} {.fieldsV1.f:status}{"\n"}{end}`)
		for _, want := range []string{"smartnat Apply", "smartnatd-gw1 Apply"} {
			if !strings.Contains(got, want) {
				t.Errorf("no %s in\n%s", want, got)
			}
		}
		if n := strings.Count(got, "Apply"); n != 2 || strings.Contains(got, "anything") {
			t.Errorf("%d managers of the status, want 2:\n%s", n, got)
		}
		if got := p.kubectl("get", "lease", "--namespace=smartnat", "-o", "jsonpath={.items[*].spec.holderIdentity}"); got != "gw1" {
			t.Errorf("Leases of %q, want of gw1", got)
		}
	})

	t.Run("two relays write each Event once", func(t *testing.T) {
		seen := func() string {
			return p.kubectl("get", "events", "--namespace=shop", "--sort-by=.metadata.name",
				"-o", `jsonpath={range .items[*]}{.involvedObject.name} {.type} {.reason} {.count}{"\n"}{end}`)
		}
		for _, want := range []string{"web Normal Ready", "zebra Warning PortConflict", "zebra Warning IPFamilyNotSupported"} {
			p.eventually(want, func() bool { return strings.Contains(seen(), want) })
			if n := strings.Count(seen(), want); n != 1 {
				t.Errorf("%s: %d times, want once, in\n%s", want, n, seen())
			}
		}
		note := p.kubectl("get", "events", "--namespace=shop", "--field-selector=involvedObject.name=web,reason=Ready", "-o", "jsonpath={.items[*].message}")
		if !strings.HasPrefix(note, `forwarded by gw1; open: 192.0.2.1 80/tcp; spec last written by "kubectl`) {
			t.Errorf("the Event says %q", note)
		}
	})

	t.Run("a gateway reports only for itself", func(t *testing.T) {
		other := gw1().WithName("gw2")
		if err := report("web", other); err == nil || !strings.Contains(err.Error(), `this user is the gateway "gw1"`) {
			t.Errorf("report as gw2: %v", err)
		}
		out, err := p.kubectlAs("--server", relayURL, "--token", token, "--namespace=shop", "label", "mapping", "web", "a=b")
		if err == nil || !strings.Contains(out, "MethodNotAllowed") {
			t.Errorf("labels of a Mapping: %v, %s", err, out)
		}
	})

	t.Run("a withdrawn report is gone", func(t *testing.T) {
		if err := report("web"); err != nil {
			t.Fatal(err)
		}
		wait("Programmed=False", "web")
		wait("Ready=False", "web")
		if got := p.kubectl("get", "mapping", "web", "--namespace=shop", "-o", "jsonpath={.status.instances}"); got != "" && got != "[]" {
			t.Errorf("instances %s, want none", got)
		}
	})

	t.Run("the loser takes over", func(t *testing.T) {
		if err := report("web", gw1().WithProgrammed(true).WithReady(true)); err != nil {
			t.Fatal(err)
		}
		wait("Ready", "web")
		p.kubectl("delete", "mapping", "web", "--namespace=shop")
		wait("Accepted", "zebra")
		var notes string
		p.eventually("the Event about the deleted Mapping", func() bool {
			notes = p.kubectl("get", "events", "--namespace=shop", "--field-selector=involvedObject.name=web,reason=Deleted", "-o", "jsonpath={.items[*].message}")
			return notes != ""
		})
		if !strings.HasPrefix(notes, `closed: 192.0.2.1 80/tcp; spec last written by "kubectl`) || strings.Count(notes, "closed") != 1 {
			t.Errorf("the Events say %q", notes)
		}
	})

	t.Run("a gateway that stops is removed", func(t *testing.T) { testAging(t, p) })
}
