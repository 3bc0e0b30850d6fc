// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package worlds

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/smartnat/smartnat/pkg/testenv"
	"github.com/smartnat/smartnat/scripts/lab"
)

// flowtableWorld returns a world with nftables, in which established connections bypass the rules, and connections count their packets.
func flowtableWorld(t *testing.T) *world {
	t.Helper()
	testenv.RequireFlowtable(t)
	testenv.RequireTool(t, "conntrack")
	w := newWorld(t, "nf_tables")
	w.dataplane = "dataplane: nftables\n"
	w.gateway(t, "sysctl -qw net.netfilter.nf_conntrack_acct=1")
	w.pods(t, 8080)
	return w
}

const echoPorts = "ports: [{port: 8080}, {port: 8080, protocol: udp}]"

// tracked returns the line of a flow in the gateway's conntrack -L, or "" if there is none.
func (w *world) tracked(t *testing.T, flow *lab.Flow) string {
	t.Helper()
	local := netip.MustParseAddrPort(flow.Conn.LocalAddr().String())
	family := "ipv4"
	if local.Addr().Is6() {
		family = "ipv6"
	}
	from := fmt.Sprintf("src=%s dst=%s sport=%d ", local.Addr(), netip.MustParseAddrPort(flow.Conn.RemoteAddr().String()).Addr(), local.Port())
	for line := range strings.Lines(w.gateway(t, "conntrack -L -f "+family+" -p "+flow.Conn.LocalAddr().Network())) {
		if strings.Contains(line, from) {
			return strings.TrimSpace(line)
		}
	}
	return ""
}

func offloaded(line string) bool { return strings.Contains(line, "[OFFLOAD]") }

// awaitOffloaded exchanges messages until the flow bypasses the rules: with UDP, that takes two seconds.
func (w *world) awaitOffloaded(t *testing.T, flow *lab.Flow) {
	t.Helper()
	if err := lab.Poll(timeout(t, patience), func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, try)
		defer cancel()
		if _, err := flow.Echo(ctx); err != nil {
			return err
		}
		if line := w.tracked(t, flow); !offloaded(line) {
			return errors.New(line)
		}
		return nil
	}); err != nil {
		t.Fatalf("%s to %s does not bypass the rules: %v\n%s", flow.Conn.LocalAddr().Network(), flow.Conn.RemoteAddr(), err, w.gateway(t, "nft list ruleset"))
	}
}

// TestFlowtableWithTwoUplinks expects connections that bypass the rules to leave by the uplink by which they came in, and those of pods by
// that of their external address. The router drops what comes by another one.
func TestFlowtableWithTwoUplinks(t *testing.T) {
	w := flowtableWorld(t)
	w.serve(t, lab.Client, 7100)
	w.objects(t, service(t, "echo", []string{"8080/TCP", "8080/UDP"}, p1),
		mapping("echo", "echo", fmt.Sprintf("addresses: [%q, %q, %q, %q], %s", lab.External1, lab.External2, lab.External1v6, lab.External2v6, echoPorts)),
		mapping("egress", "echo", `addresses: [203.0.113.13, "2001:db8:2::13"], egress: true, ports: [{port: 8081, servicePort: 8080}]`))
	w.start(t, twoUplinks)
	for address, uplink := range map[string]string{lab.External1: "eth1", lab.External2: "eth2", lab.External1v6: "eth1", lab.External2v6: "eth2"} {
		w.await(t, lab.Client, "tcp", lab.Join(address, 8080), by(p1, 8080))
		tcp := w.open(t, lab.Client, "tcp", lab.Join(address, 8080), 0)
		w.awaitOffloaded(t, tcp)
		w.expectAnswerBy(t, tcp, uplink)
		udp := w.open(t, lab.Client, "udp", lab.Join(address, 8080), 0)
		w.expectAnswerBy(t, udp, uplink)
		if line := w.tracked(t, udp); line == "" || offloaded(line) {
			t.Errorf("UDP, which may move to another uplink: %q", line)
		}
	}
	for to, want := range map[string]string{lab.ClientAddress: "203.0.113.13", lab.ClientAddress6: "2001:db8:2::13"} {
		leaves := func(a lab.Answer) bool { return a.Client.Addr().String() == want }
		w.await(t, p1.name+".default", "tcp", lab.Join(to, 7100), leaves)
		for _, network := range []string{"tcp", "udp"} {
			out := w.open(t, p1.name+".default", network, lab.Join(to, 7100), 0)
			w.awaitOffloaded(t, out)
			capture := w.capture(t, lab.Gateway, "eth2")
			awaitEcho(t, out, leaves)
			packets, err := capture.Packets()
			if err != nil {
				t.Fatal(err)
			}
			left := 0
			for _, p := range packets {
				if p.Out && p.Source.Addr().String() == want && p.Destination.Port() == 7100 {
					left++
				}
			}
			if left == 0 {
				t.Errorf("%s to %s: no packet left by eth2", network, to)
			}
		}
	}
}

// TestFlowtableEnds has connections that bypass the rules end when the Mapping no longer allows them, and go on when other things change.
func TestFlowtableEnds(t *testing.T) {
	w := flowtableWorld(t)
	w.gateway(t, "sysctl -qw net.netfilter.nf_flowtable_udp_timeout=5")
	allow := func(more string) string {
		return mapping("echo", "echo", fmt.Sprintf("addresses: [%q, %q], %s%s", lab.External1, lab.External1v6, echoPorts, more))
	}
	echo := service(t, "echo", []string{"8080/TCP", "8080/UDP"}, p1)
	w.objects(t, echo, allow(""))
	w.start(t, "uplinks: [{interface: eth1}]\n")
	var flows []*lab.Flow
	for _, address := range []string{lab.External1, lab.External1v6} {
		for _, network := range []string{"tcp", "udp"} {
			w.await(t, lab.Client, network, lab.Join(address, 8080), by(p1, 8080))
			flows = append(flows, w.open(t, lab.Client, network, lab.Join(address, 8080), 0))
		}
	}
	bypass := func() {
		t.Helper()
		for _, flow := range flows {
			w.awaitOffloaded(t, flow)
		}
	}
	bypass()
	w.expectFlowTimeout(t, "216000")
	w.expectCounted(t, flows)

	t.Log("an uplink that flaps")
	w.gateway(t, "ip link set eth1 down")
	w.gateway(t, "ip link set eth1 up")
	w.gateway(t, "ip -6 addr replace "+lab.External1v6+"/64 dev eth1 nodad")
	w.gateway(t, "ip route replace default via 198.51.100.1 dev eth1")
	w.gateway(t, "ip -6 route replace default via 2001:db8:1::1 dev eth1")
	bypass()

	t.Log("links that come, go, and come again with the same name")
	w.gateway(t, "ip link add extra0 type veth peer name extra1")
	w.gateway(t, "ip addr add 10.99.0.1/24 dev extra0")
	listed := func(want bool) {
		t.Helper()
		if err := lab.Poll(timeout(t, patience), func(context.Context) error {
			list := w.gateway(t, "nft list flowtables")
			if strings.Count(list, "extra0") != map[bool]int{true: 2}[want] || strings.Count(list, "eth1") != 2 {
				return errors.New(list)
			}
			return nil
		}); err != nil {
			t.Errorf("extra0 listed %t: %v", want, err)
		}
	}
	listed(true)
	batch := "link del extra0\nlink add extra0 type veth peer name extra1\naddr add 10.99.0.1/24 dev extra0\n"
	if _, err := w.Host(lab.Gateway).ExecInput(timeout(t, patience), batch, "ip", "-batch", "-"); err != nil {
		t.Fatal(err)
	}
	listed(true)
	w.gateway(t, "ip link del extra0")
	listed(false)
	bypass()

	t.Log("a restart")
	w.stop(t)
	// Flows of TCP leave after half of that time: before both ends probe an idle connection, which package net does after 15 s.
	w.gateway(t, "sysctl -qw net.netfilter.nf_conntrack_tcp_timeout_established=24")
	w.start(t, "uplinks: [{interface: eth1}]\n")
	for _, flow := range flows {
		awaitEcho(t, flow, by(p1, 8080))
	}
	bypass()
	w.expectFlowTimeout(t, "12")

	t.Log("a pause that is longer than the flowtable remembers")
	for _, flow := range flows {
		if err := lab.Poll(timeout(t, patience), func(context.Context) error {
			line := w.tracked(t, flow)
			if line == "" || offloaded(line) {
				return fmt.Errorf("conntrack has %q", line)
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
		if _, err := flow.Echo(timeout(t, try)); err != nil { // the rules know the connection still
			t.Errorf("%s to %s: %v", flow.Conn.LocalAddr().Network(), flow.Conn.RemoteAddr(), err)
		}
	}
	bypass()

	t.Log("a source that is not allowed any more")
	w.objects(t, echo, allow(`, allowedSources: ["198.18.0.0/15", "2001:db8:f::/48"]`))
	for _, flow := range flows {
		w.awaitSilence(t, flow)
	}
}

// expectFlowTimeout expects the time in seconds after which TCP leaves the flowtable.
func (w *world) expectFlowTimeout(t *testing.T, want string) {
	t.Helper()
	if n, err := w.Host(lab.Gateway).Sysctl("net.netfilter.nf_flowtable_tcp_timeout"); err != nil || n != want {
		t.Errorf("the timeout of flows is %q, want %s: %v", n, want, err)
	}
}

// expectCounted exchanges messages, and expects connections that bypass the rules to count each packet.
func (w *world) expectCounted(t *testing.T, flows []*lab.Flow) {
	t.Helper()
	const messages = 10
	count := regexp.MustCompile(`packets=(\d+)`)
	packets := func(line string) (n [2]int) {
		for i, found := range count.FindAllStringSubmatch(line, 2) {
			n[i], _ = strconv.Atoi(found[1])
		}
		return n
	}
	for _, flow := range flows {
		w.awaitOffloaded(t, flow)
		before := w.tracked(t, flow)
		for range messages {
			if _, err := flow.Echo(timeout(t, try)); err != nil {
				t.Fatal(err)
			}
		}
		after := w.tracked(t, flow)
		if !offloaded(before) || !offloaded(after) {
			t.Fatalf("%q\n%q", before, after)
		}
		was, is := packets(before), packets(after)
		for direction := range was {
			if is[direction]-was[direction] < messages {
				t.Errorf("%d messages counted as packets %v, before %v", messages, is, was)
			}
		}
	}
}

// awaitSilence exchanges messages until there is no answer any more, and expects that the flow does not bypass the rules then.
func (w *world) awaitSilence(t *testing.T, flow *lab.Flow) {
	t.Helper()
	w.awaitEnd(t, flow)
	if line := w.tracked(t, flow); offloaded(line) {
		t.Errorf("the flow still bypasses the rules: %q", line)
	}
}
