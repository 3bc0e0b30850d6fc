// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/smartnat/smartnat/scripts/lab"
)

// unprovenAddress is the address of the tenant's Mappings, each with its own port.
const unprovenAddress = "198.51.100.12"

// managed is the label by which a gateway trusts a slice; the admission policy reserves it to the controller.
const managed = ", endpointslice.kubernetes.io/managed-by: endpointslice-controller.k8s.io"

// handMade returns an EndpointSlice in the tenant's namespace that leads a Service to an address, with extra labels.
func handMade(name, service, address, labels string) string {
	return fmt.Sprintf(`
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: %s, namespace: tenant, labels: {kubernetes.io/service-name: %s%s}}
addressType: IPv4
endpoints: [{addresses: [%s], conditions: {ready: true}}]
ports: [{name: tcp, port: 8080, protocol: TCP}]
`, name, service, labels, address)
}

// testUnproven checks that a tenant who writes EndpointSlices cannot lead the gateway's connections to another tenant's pod, with or
// without the relay's admission policy, and that the status of the Mapping says why.
func testUnproven(t *testing.T, w *world) {
	ctx := timeout(t, 6*patience)
	w.namespace(t, "victim", 0)
	w.addPod(ctx, t, "victim", "victim-0")
	w.namespace(t, "tenant", 1)
	victim := w.podAddress(t, "victim", "victim-0")
	w.apply(t, `
apiVersion: v1
kind: Service
metadata: {name: bare, namespace: tenant}
spec: {ports: [{name: tcp, port: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: outside, namespace: tenant}
spec: {type: ExternalName, externalName: 192.0.2.20, externalIPs: [192.0.2.20], ports: [{name: tcp, port: 8080}]}
`)
	for port, spec := range map[int]string{
		7110: "serviceName: echo, mode: endpoints", 7111: "serviceName: bare, mode: endpoints", 7112: "serviceName: outside, mode: service",
		7113: "serviceName: bare, mode: service", 7114: "serviceName: echo, mode: service",
	} {
		w.apply(t, mappingYAML("tenant", fmt.Sprintf("at-%d", port),
			fmt.Sprintf("addresses: [%s], %s, ports: [{port: %d, servicePort: 8080}]", unprovenAddress, spec, port)))
	}
	w.await(t, lab.Client, "tcp", lab.Join(unprovenAddress, 7110), nil)
	w.await(t, lab.Client, "tcp", lab.Join(unprovenAddress, 7114), nil)

	// With the policy, slices that imitate the controller's are refused; others are accepted and never used.
	for _, service := range []string{"echo", "bare"} {
		if err := w.Apply(ctx, handMade("forged-"+service, service, victim, managed)); err == nil || !strings.Contains(err.Error(), "smartnat-endpointslices") {
			t.Errorf("a slice of %s that imitates the controller's: %v; want the policy to refuse it", service, err)
		}
		w.apply(t, handMade("by-hand-"+service, service, victim, ""))
	}
	w.awaitStatus(t, "tenant", "at-7110", "EndpointSlice by-hand-echo is ignored", "managed-by")
	w.awaitStatus(t, "tenant", "at-7111", "EndpointSlice by-hand-bare is ignored", "has no selector")
	w.awaitStatus(t, "tenant", "at-7112", "outside")
	// The node's kube-proxy would lead there: it takes all slices of a Service alike.
	w.awaitStatus(t, "tenant", "at-7113", "ClusterIPNotAllowed", "has no selector")
	w.awaitStatus(t, "tenant", "at-7114", "ClusterIPNotAllowed", "EndpointSlice by-hand-echo", "managed-by")
	w.expectUnled(ctx, t, victim)

	// Without the policy, a Service without selector still has no backends. For one with a selector the controller deletes the forged slice
	// when it next syncs the Service.
	w.kubectl(t, "delete", "validatingadmissionpolicybinding", "smartnat-endpointslices")
	defer func() {
		if _, err := w.ApplyRelay(ctx); err != nil {
			t.Error(err)
		}
	}()
	for _, service := range []string{"bare", "echo"} {
		if err := lab.Poll(ctx, func(ctx context.Context) error {
			return w.Apply(ctx, handMade("forged-"+service, service, victim, managed))
		}); err != nil {
			t.Fatal(err)
		}
	}
	w.awaitStatus(t, "tenant", "at-7111", "EndpointSlice by-hand-bare and 1 more are ignored", "has no selector")
	if err := lab.Poll(ctx, func(ctx context.Context) error {
		slice, err := w.Kubectl(ctx, "get", "endpointslices", "--namespace=tenant", "--selector=kubernetes.io/service-name=echo"+
			",endpointslice.kubernetes.io/managed-by=endpointslice-controller.k8s.io", "-o", "jsonpath={.items[*].endpoints[*].addresses}")
		if err == nil && strings.Contains(slice, victim) {
			err = errors.New("the controller has not deleted the forged slice")
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	w.awaitRules(t, func(rules string) bool { return !strings.Contains(rules, w.plane.to(victim)) })
	w.expectUnled(ctx, t, victim)
}

// awaitStatus waits until a condition of a Mapping, or the gateway's problems with it, contain all of want.
func (w *world) awaitStatus(t *testing.T, namespace, name string, want ...string) {
	t.Helper()
	var got string
	if err := lab.Poll(timeout(t, patience), func(ctx context.Context) error {
		out, err := w.Kubectl(ctx, "get", "mapping", name, "--namespace="+namespace, "-o",
			`jsonpath={range .status.conditions[*]}{.type} {.status} {.reason} {.message}{"\n"}{end}{range .status.instances[*]}{.problems}{"\n"}{end}`)
		if err != nil {
			return err
		}
		got = out
		for line := range strings.Lines(got) {
			if containsAll(line, want) {
				return nil
			}
		}
		return errors.New("a part is missing")
	}); err != nil {
		t.Fatalf("the status of Mapping %s is\n%swant %q: %v", name, got, want, err)
	}
}

// expectUnled checks that only the tenant's own pod answers.
func (w *world) expectUnled(ctx context.Context, t *testing.T, victim string) {
	t.Helper()
	own := w.podAddress(t, "tenant", "echo-0")
	rules := w.rules(ctx, t)
	if !strings.Contains(rules, w.plane.to(own)) || strings.Contains(rules, w.plane.to(victim)) || strings.Contains(rules, "192.0.2.20") {
		t.Errorf("want no rule that leads to %s or 192.0.2.20, and one that leads to %s:\n%s", victim, own, rules)
	}
	for range 20 {
		answer, err := w.Host(lab.Client).EchoTCP(ctx, lab.Join(unprovenAddress, 7110))
		if err != nil || answer.Pod != "echo-0" {
			t.Fatalf("answer %+v, %v; want one of the tenant's pod", answer, err)
		}
	}
	for _, port := range []uint16{7111, 7112, 7113, 7114} {
		w.awaitRefusal(t, lab.Client, "tcp", lab.Join(unprovenAddress, port))
	}
}
