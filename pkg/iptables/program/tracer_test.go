// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package program

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/iptables/ruleset"
	"github.com/smartnat/smartnat/pkg/packet"
	"github.com/smartnat/smartnat/pkg/testenv"
)

// TestTracerAgreesWithTheKernel sends first packets from the host to itself and compares the nat rules whose counters moved
// with the rules that the tracer predicts.
func TestTracerAgreesWithTheKernel(t *testing.T) {
	inKernel(t, func(t *testing.T, k kernel) {
		state := k.state()
		external := state.Forwards[0].Address
		network := netip.PrefixFrom(external, external.BitLen()-8).Masked()
		everythingIsLocal(t, network)
		// Drop answers, so that connections last until they are inspected.
		k.load(t, "*filter\n-A INPUT -j DROP\nCOMMIT\n")
		k.apply(t, k.build(state))
		// remembered lists the xt_recent lists that contain the client.
		var remembered []string
		tracer := ruleset.NewTracer(k.read(t)).Remembering(func(list string, _ uint32) bool { return slices.Contains(remembered, list) })

		allowed := netip.PrefixFrom(external, external.BitLen()-8).Addr()
		for range 200 {
			allowed = allowed.Next()
		}
		// No subtests: they would run on threads outside the namespace.
		for _, probe := range []struct {
			name     string
			address  int
			protocol gateway.Protocol
			port     uint16
		}{
			{"no backends", crowded, gateway.TCP, 80},
			{"one backend, masquerade off", crowded, gateway.TCP, 95},
			{"source checked", crowded, gateway.TCP, 86},
			{"no source allowed", crowded, gateway.TCP, 131},
			{"several backends", crowded, gateway.TCP, 98},
			{"the last leaf of the decision tree", 11, gateway.TCP, 167},
			{"groups of backends, masquerade off", crowded, gateway.TCP, 1000},
			{"a port in a range", crowded, gateway.TCP, 33000},
			{"a shifted range", crowded, gateway.UDP, 8005},
			{"SCTP", choosy, gateway.SCTP, 80},
			{"SCTP, a shifted range", choosy, gateway.SCTP, 155},
			{"a new client", choosy, gateway.TCP, 80},
			{"a returning client", choosy, gateway.TCP, 80},
			{"a new client, groups of backends", choosy, gateway.UDP, 53},
			{"a returning client, groups of backends", choosy, gateway.UDP, 53},
			{"a new client, a shifted range", choosy, gateway.UDP, 5003},
			{"a returning client, another port of the shifted range", choosy, gateway.UDP, 5009},
			{"a range that keeps its ports", choosy, gateway.UDP, 7004},
			{"not mapped", crowded, gateway.TCP, 81},
			{"another protocol", crowded, gateway.UDP, 80},
			{"another address", 100, gateway.TCP, 80},
		} {
			to := external
			for range probe.address {
				to = to.Next()
			}
			p := packet.Packet{Protocol: probe.protocol, State: packet.New, Direction: packet.Original,
				Source: netip.AddrPortFrom(allowed, 0), Destination: netip.AddrPortFrom(to, probe.port),
				Route: func(netip.Addr, uint32) string { return "lo" }}
			before := k.counters(t, "nat")
			if err := netlink.ConntrackTableFlush(netlink.ConntrackTable); err != nil {
				t.Fatal(err)
			}
			send(t, p)
			got := moved(before, k.counters(t, "nat"))
			trace, agree := foreseen(tracer, p, got)
			if !agree {
				t.Errorf("%s: matching rules (-predicted +kernel):\n%s", probe.name, cmp.Diff(natSteps(trace), got))
			}
			if to := k.translated(t, p); agree && trace.Verdict == packet.Accept && to != trace.Packet.Destination {
				t.Errorf("%s: the tracer predicts destination %s, the kernel uses %s", probe.name, trace.Packet.Destination, to)
			}
			remembered = append(remembered, trace.Remembered...)
		}
		if slices.Sort(remembered); len(remembered) != 8 || len(slices.Compact(slices.Clone(remembered))) != 5 {
			t.Errorf("clients are in lists %q, want five lists, three of them twice", remembered)
		}
	})
}

// foreseen returns the trace whose nat rules are those that matched, if there is one. The tracer yields one trace for each
// random choice, and the matched rules identify the one that was taken.
func foreseen(tracer *ruleset.Tracer, p packet.Packet, matched []string) (trace packet.Trace, agree bool) {
	for trace = range tracer.Outcomes(p) {
		if slices.Equal(natSteps(trace), matched) {
			return trace, true
		}
	}
	return trace, false
}

// replied matches the source address and port of the reply tuple.
var replied = regexp.MustCompile(`src=\S+ .*src=(\S+) .*sport=(\d+)`)

// translated returns the translated destination of the connection that began with p. It runs conntrack(8) because the netlink
// package does not read SCTP ports.
func (k kernel) translated(t *testing.T, p packet.Packet) netip.AddrPort {
	t.Helper()
	testenv.RequireTool(t, "conntrack")
	out, err := exec.CommandContext(t.Context(), "conntrack", "-L", "-f", fmt.Sprintf("ipv%d", k.family), "-p", string(p.Protocol),
		"--orig-src", p.Source.Addr().String(), "--orig-dst", p.Destination.Addr().String(), "--orig-port-dst", fmt.Sprint(p.Destination.Port())).Output()
	if err != nil {
		t.Fatal(err)
	}
	found := replied.FindSubmatch(out)
	if found == nil {
		return netip.AddrPort{}
	}
	to, err := netip.ParseAddrPort(net.JoinHostPort(string(found[1]), string(found[2])))
	if err != nil {
		t.Fatal(err)
	}
	return to
}

// everythingIsLocal makes every address of a network local.
func everythingIsLocal(t *testing.T, network netip.Prefix) {
	t.Helper()
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	_, destination, err := net.ParseCIDR(network.String())
	if err != nil {
		t.Fatal(err)
	}
	route := netlink.Route{LinkIndex: lo.Attrs().Index, Dst: destination, Type: unix.RTN_LOCAL, Table: unix.RT_TABLE_LOCAL, Scope: unix.RT_SCOPE_HOST}
	if network.Addr().Is6() {
		route.Scope = unix.RT_SCOPE_UNIVERSE
		if err := os.WriteFile("/proc/sys/net/ipv6/ip_nonlocal_bind", []byte("1"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := netlink.RouteAdd(&route); err != nil {
		t.Fatal(err)
	}
	// MASQUERADE drops packets if the link has only the loopback address.
	mask := net.CIDRMask(8*len(destination.IP), 8*len(destination.IP))
	if err := netlink.AddrReplace(lo, &netlink.Addr{IPNet: &net.IPNet{IP: destination.IP, Mask: mask}}); err != nil {
		t.Fatal(err)
	}
}

// send sends the first packet of a connection and nothing after it.
func send(t *testing.T, p packet.Packet) {
	t.Helper()
	if p.Protocol == gateway.SCTP {
		sendSCTP(t, p)
		return
	}
	domain, kind := unix.AF_INET, unix.SOCK_STREAM
	if p.Source.Addr().Is6() {
		domain = unix.AF_INET6
	}
	if p.Protocol == gateway.UDP {
		kind = unix.SOCK_DGRAM
	}
	fd, err := unix.Socket(domain, kind|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, sockaddr(p.Source)); err != nil {
		t.Fatalf("binding to %s: %v", p.Source, err)
	}
	// The result depends on the rules.
	_ = unix.Connect(fd, sockaddr(p.Destination))
	if kind == unix.SOCK_DGRAM {
		_, _ = unix.Write(fd, []byte("x"))
	}
}

// sendSCTP sends an SCTP INIT chunk through a raw socket. Netfilter works without the kernel's SCTP.
func sendSCTP(t *testing.T, p packet.Packet) {
	t.Helper()
	domain := unix.AF_INET
	if p.Source.Addr().Is6() {
		domain = unix.AF_INET6
	}
	fd, err := unix.Socket(domain, unix.SOCK_RAW, unix.IPPROTO_SCTP)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, sockaddr(netip.AddrPortFrom(p.Source.Addr(), 0))); err != nil {
		t.Fatalf("binding to %s: %v", p.Source, err)
	}
	message := binary.BigEndian.AppendUint16(nil, 40000)
	message = binary.BigEndian.AppendUint16(message, p.Destination.Port())
	// Verification tag and checksum are zero. Then follows an INIT chunk of 20 bytes: tag, window, outbound and inbound
	// streams, initial TSN.
	message = append(message, make([]byte, 8)...)
	message = append(message, 1, 0, 0, 20, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1)
	if err := unix.Sendto(fd, message, 0, sockaddr(netip.AddrPortFrom(p.Destination.Addr(), 0))); err != nil {
		t.Fatalf("sending to %s: %v", p.Destination, err)
	}
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
}

func natSteps(trace packet.Trace) []string {
	var steps []string
	for _, s := range trace.Steps {
		if s.Table == "nat" {
			steps = append(steps, step(s.Table, s.Chain, s.Number))
		}
	}
	if trace.Verdict == packet.Reject {
		// The answer belongs to the same connection and is its first packet in POSTROUTING.
		steps = append(steps, step("nat", "POSTROUTING", 1))
	}
	slices.Sort(steps)
	return steps
}

func step(table, chain string, number int) string {
	return fmt.Sprintf("%s %s %d", table, chain, number)
}

// counters returns the packet counters of all rules in the given tables.
func (k kernel) counters(t *testing.T, tables ...string) map[string]string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), k.programs[k.family].save(), "-c").Output()
	if err != nil {
		t.Fatal(err)
	}
	counters, numbers, table := map[string]string{}, map[string]int{}, ""
	for line := range strings.Lines(string(out)) {
		if line[0] == '*' {
			table = strings.TrimSpace(line[1:])
			clear(numbers)
		}
		counter, rule, found := strings.Cut(line, " -A ")
		if !found || !slices.Contains(tables, table) {
			continue
		}
		chain, _, _ := strings.Cut(rule, " ")
		numbers[chain]++
		counters[step(table, chain, numbers[chain])] = counter
	}
	return counters
}

func moved(before, after map[string]string) []string {
	var rules []string
	for rule, counter := range after {
		if before[rule] != counter {
			rules = append(rules, rule)
		}
	}
	slices.Sort(rules)
	return rules
}
