// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/smartnat/smartnat/scripts/lab"
)

// testEgress checks that connections of a pod leave with its Mapping's address by that address's uplink, which is not that of the
// default route, that the oldest Mapping wins, and that inside traffic keeps the pod's address.
func testEgress(t *testing.T, w *world) {
	w.namespace(t, "egress", 1)
	for _, host := range []string{lab.Client, lab.Gateway} {
		server, err := w.Host(host).Serve(7000)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = server.Close() }()
	}
	const pod = "echo-0.egress"
	outside := []string{lab.Join(lab.ClientAddress, 7000), lab.Join(lab.ClientAddress6, 7000)}
	w.expectSilence(t, pod, "udp", outside[0]) // there is no route back to a pod

	w.apply(t, mappingYAML("egress", "older", `addresses: [203.0.113.13, "2001:db8:2::13"], serviceName: echo, egress: true, ports: [{port: 1200, servicePort: 8080}]`))
	leavesBy := func(addresses ...string) {
		t.Helper()
		for i, address := range addresses {
			for _, protocol := range protocols {
				w.await(t, pod, protocol, outside[i], func(a lab.Answer) bool { return a.Client.Addr().String() == address })
			}
		}
	}
	leavesBy("203.0.113.13", "2001:db8:2::13")
	audited := func(skip int, words ...string) {
		t.Helper()
		w.awaitLog(timeout(t, patience), t, skip, append([]string{"egress=true"}, words...)...)
	}
	audited(0, "opened egress", "mapping=egress/older", "203.0.113.13")
	w.expectUplink(t, pod, outside[0], "203.0.113.13", "eth2", "eth1")
	w.expectUplink(t, pod, outside[1], "2001:db8:2::13", "eth2", "eth1")
	for protocol, address := range map[string]string{"tcp": lab.Join(lab.GatewayAddress, 7000), "udp": lab.Join(lab.GatewayAddress6, 7000)} {
		answer := w.await(t, pod, protocol, address, nil)
		if client := answer.Client.Addr().String(); client != w.podAddress(t, "egress", "echo-0") && client != w.podAddress6(t, "egress", "echo-0") {
			t.Errorf("an inside host saw the pod as %s, want its own address", client)
		}
	}

	// In order of names, the younger one would win.
	awaitNextSecond(t)
	skip := len(w.daemon.Log())
	w.apply(t, mappingYAML("egress", "less-old", `addresses: [198.51.100.13, "2001:db8:1::13"], serviceName: echo, egress: true, ports: [{port: 1200, servicePort: 8080}]`))
	w.await(t, lab.Client, "tcp", lab.Join("198.51.100.13", 1200), nil)
	w.awaitLog(timeout(t, patience), t, skip, "egress/less-old", "spec.egress", "egress/older")
	audited(skip, "refused egress", "mapping=egress/less-old", "EgressConflict")
	leavesBy("203.0.113.13", "2001:db8:2::13")
	if _, err := w.Kubectl(timeout(t, patience), "delete", "mapping", "older", "-n", "egress"); err != nil {
		t.Fatal(err)
	}
	leavesBy("198.51.100.13", "2001:db8:1::13")
	audited(skip, "closed egress", "mapping=egress/older", "Deleted")
	audited(skip, "opened egress", "mapping=egress/less-old", "198.51.100.13")
	w.apply(t, mappingYAML("egress", "less-old", `addresses: [198.51.100.13, "2001:db8:1::13"], serviceName: echo, egress: false, ports: [{port: 1200, servicePort: 8080}]`))
	w.awaitEnd(t, pod, "udp", outside[0])
	audited(skip, "closed egress", "mapping=egress/less-old", "Withdrawn")
}

// expectUplink makes a host send to an outside address and checks by which uplink that leaves.
func (w *world) expectUplink(t *testing.T, host, address, source, link, other string) {
	t.Helper()
	for name, want := range map[string]bool{link: true, other: false} {
		capture, err := w.Host(lab.Gateway).Capture(name)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = capture.Close() }()
		if _, err := w.Host(host).EchoUDP(timeout(t, patience), address); err != nil {
			t.Fatal(err)
		}
		packets, err := capture.Packets()
		if err != nil {
			t.Fatal(err)
		}
		left := false
		for _, packet := range packets {
			left = left || packet.Out && packet.Destination.String() == address && packet.Source.Addr().String() == source
		}
		if left != want {
			t.Errorf("%s to %s: left by %s: %t, want %t; packets: %v", host, address, name, left, want, packets)
		}
	}
}

// awaitNextSecond waits until new objects get a later creationTimestamp.
func awaitNextSecond(t *testing.T) {
	t.Helper()
	next := time.Now().Truncate(time.Second).Add(time.Second)
	if err := lab.Poll(timeout(t, patience), func(context.Context) error {
		if left := time.Until(next); left > 0 {
			return fmt.Errorf("%v to go", left)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// awaitEnd waits until new connections to an address get no answer.
func (w *world) awaitEnd(t *testing.T, host, protocol, address string) {
	t.Helper()
	if err := lab.Poll(timeout(t, patience), func(ctx context.Context) error {
		try, cancel := context.WithTimeout(ctx, silence)
		defer cancel()
		if answer, err := w.echo(try, host, protocol, address); err == nil || ctx.Err() != nil {
			return fmt.Errorf("answer %+v", answer)
		}
		return nil
	}); err != nil {
		t.Errorf("%s to %s by %s: want no answer: %v", host, address, protocol, err)
	}
}

// testKeepSource checks that, without the masquerade, a pod that routes back through the gateway sees the client's address.
func testKeepSource(t *testing.T, w *world) {
	w.namespace(t, "keep", 1)
	w.mapping(t, "keep", `addresses: [198.51.100.13, 203.0.113.13, "2001:db8:1::13", "2001:db8:2::13"], serviceName: echo, mode: endpoints, masquerade: false,
		ports: [{port: 1210, servicePort: 8080}, {port: 1210, servicePort: 8080, protocol: udp}]`)
	for external, client := range map[string]string{
		"198.51.100.13": lab.ClientAddress, "203.0.113.13": lab.ClientAddress,
		"2001:db8:1::13": lab.ClientAddress6, "2001:db8:2::13": lab.ClientAddress6,
	} {
		for _, protocol := range protocols {
			answer := w.await(t, lab.Client, protocol, lab.Join(external, 1210), nil)
			if got := answer.Client.Addr().String(); got != client {
				t.Errorf("%s by %s: the pod saw %s, want the client's own %s", external, protocol, got, client)
			}
			// Replies to an inside client would bypass the gateway, so that one is masqueraded.
			w.await(t, "echo-0.keep", protocol, lab.Join(external, 1210), nil)
			w.await(t, lab.Node2, protocol, lab.Join(external, 1210), nil)
		}
	}
}

// testHairpin checks that a pod, even the endpoint itself, a node and the gateway reach a Service by its external address.
func testHairpin(t *testing.T, w *world) {
	w.namespace(t, "hairpin", 1)
	for mode, port := range map[string]uint16{"service": 1220, "endpoints": 1221} {
		w.apply(t, mappingYAML("hairpin", mode, `addresses: [198.51.100.13, "2001:db8:2::13"], serviceName: echo, mode: `+mode+`,
			ports: [{port: `+portText(port)+`, servicePort: 8080}, {port: `+portText(port)+`, servicePort: 8080, protocol: udp}]`))
		for _, external := range []string{"198.51.100.13", "2001:db8:2::13"} {
			for _, host := range []string{lab.Client, "echo-0.hairpin", lab.Node1, lab.Node2, lab.Control, lab.Gateway} {
				for _, protocol := range protocols {
					w.await(t, host, protocol, lab.Join(external, port), nil)
				}
			}
		}
	}
}

// testForwardedOnly checks that, with forwardedOnly, the gateway's own connections to an external address are not translated, and that
// nothing else changes.
func testForwardedOnly(t *testing.T, w *world) {
	w.namespace(t, "forwarded", 1)
	w.mapping(t, "forwarded", `addresses: [198.51.100.13, "2001:db8:2::13"], serviceName: echo, ports: [{port: 1225, servicePort: 8080}]`)
	externals := []string{lab.Join("198.51.100.13", 1225), lab.Join("2001:db8:2::13", 1225)}
	for _, external := range externals {
		w.await(t, lab.Gateway, "tcp", external, nil)
	}
	w.reconfigure(t, w.config("forwardedOnly: true\n"))
	defer w.reconfigure(t, w.config())
	for _, external := range externals {
		w.awaitRefusal(t, lab.Gateway, "tcp", external)
		for _, host := range []string{lab.Client, "echo-0.forwarded", lab.Node1} {
			w.await(t, host, "tcp", external, nil)
		}
	}
}
