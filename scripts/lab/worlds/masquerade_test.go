// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package worlds

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/smartnat/smartnat/scripts/lab"
)

// TestMasqueradeAddresses lists addresses of the cluster's network. Pods see them as the source, also before the gateway holds them:
// then their answers come once it does. The commands name the addresses, and the client behind them.
func TestMasqueradeAddresses(t *testing.T) {
	shared := []netip.Addr{netip.MustParseAddr("10.10.0.100"), netip.MustParseAddr("fd00:10::100")}
	eachPlane(t, func(t *testing.T, w *world) {
		w.pods(t, 8080)
		w.objects(t,
			service(t, "echo", []string{"8080/TCP", "8080/UDP"}, p1),
			mapping("echo", "echo", fmt.Sprintf("addresses: [%q, %q], ports: [{port: 80, servicePort: 8080}, {port: 80, servicePort: 8080, protocol: udp}]", lab.External1, lab.External1v6)),
		)
		w.start(t, twoUplinks+fmt.Sprintf("masqueradeAddresses: [%q, 192.0.2.77, %q]\n", shared[0], shared[1]))
		w.awaitLog(t, "level=warning", "masqueradeAddresses[1]: 192.0.2.77 is in the network of no link of this host")
		var flows []*lab.Flow
		for i, external := range []string{lab.External1, lab.External1v6} {
			capture, err := w.PodHost("", p1.name).Capture("eth0")
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = capture.Close() }()
			flow := w.open(t, lab.Client, "udp", lab.Join(external, 80), 0)
			w.awaitSource(t, flow, capture, shared[i])
			flows = append(flows, flow)
		}
		w.gateway(t, "ip addr add 10.10.0.100/32 dev eth0")
		w.gateway(t, "ip addr add fd00:10::100/128 dev eth0 nodad")
		for i, external := range []string{lab.External1, lab.External1v6} {
			from := func(a lab.Answer) bool { return by(p1, 8080)(a) && a.Client.Addr() == shared[i] }
			awaitEcho(t, flows[i], from)
			for _, protocol := range []string{"tcp", "udp"} {
				w.await(t, lab.Client, protocol, lab.Join(external, 80), from)
			}
			client := []string{lab.ClientAddress, lab.ClientAddress6}[i]
			w.expectSays(t, fmt.Sprintf("the endpoint sees %s (masqueradeAddresses) as the source", shared[i]), "explain", client, lab.Join(external, 80)+"/udp")
			answer, err := flows[i].Echo(timeout(t, patience))
			if err != nil {
				t.Fatal(err)
			}
			sender := flows[i].Conn.LocalAddr().String()
			w.expectSays(t, sender, "who", answer.Client.String()+"/udp")
			w.expectSays(t, answer.Client.String(), "connections", "-o", "json")
		}
	})
}

// awaitSource sends on a flow until the pod gets a datagram from an address.
func (w *world) awaitSource(t *testing.T, flow *lab.Flow, capture *lab.Capture, want netip.Addr) {
	t.Helper()
	if err := lab.Poll(timeout(t, patience), func(context.Context) error {
		if _, err := flow.Conn.Write([]byte("early\n")); err != nil {
			return err
		}
		packets, err := capture.Packets()
		if err != nil {
			return err
		}
		for _, packet := range packets {
			if !packet.Out && packet.Source.Addr() == want && packet.Destination.Port() == 8080 {
				return nil
			}
		}
		return fmt.Errorf("%d packets, none from %s", len(packets), want)
	}); err != nil {
		t.Error(err)
	}
}

// expectSays runs a command of smartnatd and expects a text in its output.
func (w *world) expectSays(t *testing.T, want string, args ...string) {
	t.Helper()
	output, err := w.Smartnatd(timeout(t, patience), args...)
	if err != nil || !strings.Contains(output, want) {
		t.Errorf("smartnatd %s: %v, no %q in\n%s", strings.Join(args, " "), err, want, output)
	}
}
