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
	"time"

	"golang.org/x/sys/unix"

	"github.com/smartnat/smartnat/scripts/lab"
)

// flow opens a connection, or a UDP flow, that ends with the test, and waits for one answer. Datagrams may get lost while a node does
// not know a new Service yet, so it retries with another flow.
func (w *world) flow(t *testing.T, host, protocol, address string) *lab.Flow {
	t.Helper()
	var flow *lab.Flow
	if err := lab.Poll(timeout(t, patience), func(ctx context.Context) (err error) {
		try, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		if flow, err = w.Host(host).OpenFlow(try, protocol, address, 0); err != nil {
			return err
		}
		if _, err = flow.Echo(try); err != nil {
			_ = flow.Close()
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = flow.Close() })
	return flow
}

// say exchanges a message on a flow that must work, and returns the pod that answered.
func say(t *testing.T, flow *lab.Flow) string {
	t.Helper()
	answer, err := flow.Echo(timeout(t, patience))
	if err != nil {
		t.Fatalf("an established flow: %v", err)
	}
	return answer.Pod
}

// awaitFlow keeps exchanging messages on a flow, which keeps it alive, until accept returns true.
func awaitFlow(t *testing.T, flow *lab.Flow, what string, accept func(lab.Answer, error) bool) {
	t.Helper()
	if err := lab.Poll(timeout(t, patience), func(ctx context.Context) error {
		try, cancel := context.WithTimeout(ctx, silence)
		defer cancel()
		answer, err := flow.Echo(try)
		if ctx.Err() != nil {
			return ctx.Err() // it also ended the attempt, so err proves nothing
		}
		if !accept(answer, err) {
			return errors.Join(err, fmt.Errorf("answer %+v", answer))
		}
		return nil
	}); err != nil {
		t.Errorf("want flow %s: %v", what, err)
	}
}

func answeredBy(pod string) func(lab.Answer, error) bool {
	return func(a lab.Answer, err error) bool { return err == nil && a.Pod == pod }
}

func failed(_ lab.Answer, err error) bool  { return err != nil }
func refused(_ lab.Answer, err error) bool { return errors.Is(err, unix.ECONNREFUSED) }
func silent(_ lab.Answer, err error) bool  { return err != nil && isTimeout(err) }

// externals returns the external addresses of both families with the port.
func externals(host string, port uint16) []string {
	return []string{lab.Join("198.51.100."+host, port), lab.Join("2001:db8:1::"+host, port)}
}

// testFlowsMove checks that UDP flows leave an endpoint that is not ready at once, and that TCP connections stay until it is gone.
func testFlowsMove(t *testing.T, w *world) {
	w.namespace(t, "flows", 2)
	w.mapping(t, "flows", `addresses: [198.51.100.11, "2001:db8:1::11"], serviceName: echo, mode: endpoints,
		ports: [{port: 1100, servicePort: 8080}, {port: 1100, servicePort: 8080, protocol: udp}]`)
	ctx := timeout(t, time.Minute)
	for _, address := range externals("11", 1100) {
		seen := map[string]bool{}
		w.await(t, lab.Client, "udp", address, func(a lab.Answer) bool { seen[a.Pod] = true; return len(seen) == 2 })
		udp := w.flow(t, lab.Client, "udp", address)
		old, other := say(t, udp), "echo-0"
		if old == other {
			other = "echo-1"
		}
		tcp := w.flowTo(t, old, address)
		if err := w.SetReady(ctx, "flows", old, false); err != nil { // it still answers
			t.Fatal(err)
		}
		awaitFlow(t, udp, "to go on with the pod that is left", answeredBy(other))
		if pod := say(t, tcp); pod != old {
			t.Errorf("%s answered the established connection, want %s until it is gone", pod, old)
		}
		if err := w.SetReady(ctx, "flows", old, true); err != nil {
			t.Fatal(err)
		}
	}
}

// flowTo opens TCP connections until one reaches the pod.
func (w *world) flowTo(t *testing.T, pod, address string) *lab.Flow {
	t.Helper()
	for range 100 {
		if flow := w.flow(t, lab.Client, "tcp", address); say(t, flow) == pod {
			return flow
		}
	}
	t.Fatalf("no connection of 100 to %s leads to %s", address, pod)
	return nil
}

// testScaleToZero checks that flows to a Service without endpoints are refused, even established ones, and that they work again once
// it has an endpoint.
func testScaleToZero(t *testing.T, w *world) {
	w.namespace(t, "zero", 1)
	w.mapping(t, "zero", `addresses: [198.51.100.11, "2001:db8:1::11"], serviceName: echo, mode: endpoints,
		ports: [{port: 1110, servicePort: 8080, protocol: udp}]`)
	ctx := timeout(t, time.Minute)
	var flows []*lab.Flow
	for _, address := range externals("11", 1110) {
		w.await(t, lab.Client, "udp", address, nil)
		flows = append(flows, w.flow(t, lab.Client, "udp", address))
		say(t, flows[len(flows)-1])
	}
	if err := w.SetReady(ctx, "zero", "echo-0", false); err != nil {
		t.Fatal(err)
	}
	for _, flow := range flows {
		awaitFlow(t, flow, "to be refused", refused)
	}
	if err := w.SetReady(ctx, "zero", "echo-0", true); err != nil {
		t.Fatal(err)
	}
	for _, flow := range flows {
		awaitFlow(t, flow, "to work again", answeredBy("echo-0"))
	}
}

// testTerminating checks that a terminating pod keeps its connections and gets new ones only if it is the last.
func testTerminating(t *testing.T, w *world) {
	w.namespace(t, "terminating", 2)
	w.mapping(t, "terminating", `addresses: [198.51.100.11, "2001:db8:1::11"], serviceName: echo, mode: endpoints, ports: [{port: 1120, servicePort: 8080}]`)
	ctx := timeout(t, time.Minute)
	var flows []*lab.Flow
	for _, address := range externals("11", 1120) {
		seen := map[string]bool{}
		w.await(t, lab.Client, "tcp", address, func(a lab.Answer) bool { seen[a.Pod] = true; return len(seen) == 2 })
		flows = append(flows, w.flowTo(t, "echo-0", address))
	}
	if err := w.TerminatePod(ctx, "terminating", "echo-0"); err != nil {
		t.Fatal(err)
	}
	address := w.plane.to(w.podAddress(t, "terminating", "echo-0"))
	w.awaitRules(t, func(rules string) bool { return !strings.Contains(rules, address) })
	for range 20 {
		if answer, err := w.Host(lab.Client).EchoTCP(ctx, lab.Join("198.51.100.11", 1120)); err != nil || answer.Pod != "echo-1" {
			t.Fatalf("a new connection: %+v, %v; want echo-1's, the other one terminates", answer, err)
		}
	}
	for _, flow := range flows {
		if pod := say(t, flow); pod != "echo-0" {
			t.Errorf("%s answered the established connection, want the terminating echo-0", pod)
		}
	}
	// The last endpoint serves new connections even while it terminates.
	if err := w.RemovePod(ctx, "terminating", "echo-1"); err != nil {
		t.Fatal(err)
	}
	w.await(t, lab.Client, "tcp", lab.Join("198.51.100.11", 1120), func(a lab.Answer) bool { return a.Pod == "echo-0" })
	if err := w.RemovePod(ctx, "terminating", "echo-0"); err != nil {
		t.Fatal(err)
	}
	w.awaitRefusal(t, lab.Client, "tcp", lab.Join("198.51.100.11", 1120))
	for _, flow := range flows {
		awaitFlow(t, flow, "to end with its pod", failed)
	}
}

// testFlowsEnd checks that connections and flows end with their Mapping.
func testFlowsEnd(t *testing.T, w *world) {
	w.namespace(t, "ends", 1)
	w.mapping(t, "ends", `addresses: [198.51.100.11, "2001:db8:1::11"], serviceName: echo,
		ports: [{port: 1130, servicePort: 8080}, {port: 1130, servicePort: 8080, protocol: udp}]`)
	var flows []*lab.Flow
	for _, address := range externals("11", 1130) {
		for _, protocol := range protocols {
			w.await(t, lab.Client, protocol, address, nil)
			flows = append(flows, w.flow(t, lab.Client, protocol, address))
			say(t, flows[len(flows)-1])
		}
	}
	if _, err := w.Kubectl(timeout(t, patience), "delete", "mapping", "echo", "-n", "ends"); err != nil {
		t.Fatal(err)
	}
	for _, flow := range flows {
		awaitFlow(t, flow, "to end with its Mapping", failed)
	}
}

// testServiceRecreated checks that flows move to the current ClusterIP of the Service.
func testServiceRecreated(t *testing.T, w *world) {
	w.namespace(t, "recreated", 1)
	service := func(v4, v6 string) string {
		return fmt.Sprintf("apiVersion: v1\nkind: Service\nmetadata: {name: again, namespace: recreated}\nspec: {ipFamilyPolicy: RequireDualStack, "+
			"clusterIP: %s, clusterIPs: [%s, %q], selector: {app: echo}, ports: [{name: t, port: 8080}, {name: u, port: 8080, protocol: UDP}]}\n", v4, v4, v6)
	}
	w.apply(t, service("10.96.77.1", "fd00:96::7701"))
	w.mapping(t, "recreated", `addresses: [198.51.100.11, "2001:db8:1::11"], serviceName: again,
		ports: [{port: 1140, servicePort: 8080}, {port: 1140, servicePort: 8080, protocol: udp}]`)
	var udp, tcp []*lab.Flow
	for _, address := range externals("11", 1140) {
		w.await(t, lab.Client, "tcp", address, nil)
		w.await(t, lab.Client, "udp", address, nil)
		udp, tcp = append(udp, w.flow(t, lab.Client, "udp", address)), append(tcp, w.flow(t, lab.Client, "tcp", address))
		say(t, udp[len(udp)-1])
		say(t, tcp[len(tcp)-1])
	}
	ctx := timeout(t, patience)
	if _, err := w.Kubectl(ctx, "delete", "service", "again", "-n", "recreated"); err != nil {
		t.Fatal(err)
	}
	w.apply(t, service("10.96.77.2", "fd00:96::7702"))
	for i := range udp {
		// The nodes still track the connection to the old ClusterIP, so only the gateway can end it.
		awaitFlow(t, tcp[i], "to end with the old ClusterIP", failed)
	}
	// The entry of a UDP flow may end a moment later, and the next datagram makes a new one.
	if err := lab.Poll(ctx, func(ctx context.Context) error {
		for _, flow := range udp {
			awaitFlow(t, flow, "to go on", answeredBy("echo-0"))
		}
		flows, err := w.Host(lab.Gateway).Exec(ctx, "conntrack", "-L", "-p", "udp", "--orig-port-dst", "1140")
		if err != nil {
			return err
		}
		if strings.Contains(flows, "10.96.77.1") || !strings.Contains(flows, "10.96.77.2") || !strings.Contains(flows, "fd00:96::7702") {
			return fmt.Errorf("flows are:\n%s\nwant them by 10.96.77.2 and fd00:96::7702", flows)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}

// testSourceRevoked checks that a revoked source loses its established connections, and no other source does.
func testSourceRevoked(t *testing.T, w *world) {
	w.namespace(t, "revoked", 1)
	mapping := func(sources string) {
		w.mapping(t, "revoked", `addresses: [198.51.100.11, "2001:db8:1::11"], allowedSources: [`+sources+`], serviceName: echo,
			ports: [{port: 1150, servicePort: 8080}, {port: 1150, servicePort: 8080, protocol: udp}]`)
	}
	mapping(`192.0.2.10/32, 192.0.2.20/32, "2001:db8:c::10/128", "2001:db8:c::20/128"`)
	flows := map[string][]*lab.Flow{}
	for _, address := range externals("11", 1150) {
		for _, protocol := range protocols {
			for _, client := range []string{lab.Client, lab.Client2} {
				w.await(t, client, protocol, address, nil)
				flow := w.flow(t, client, protocol, address)
				say(t, flow)
				flows[client] = append(flows[client], flow)
			}
		}
	}
	mapping(`192.0.2.10/32, "2001:db8:c::10/128"`)
	for _, flow := range flows[lab.Client2] {
		awaitFlow(t, flow, "to meet silence", silent)
	}
	for _, flow := range flows[lab.Client] {
		say(t, flow)
	}
}
