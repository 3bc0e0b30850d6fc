// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package iptables

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/netfilter"
)

// TestTracerAgreesWithTheKernel sends first packets from the host to itself and compares the rules of nat whose counters
// moved with those that the tracer says match.
func TestTracerAgreesWithTheKernel(t *testing.T) {
	inKernel(t, func(t *testing.T, k kernel) {
		state := k.state()
		external := state.Forwards[0].Address
		network := netip.PrefixFrom(external, external.BitLen()-8).Masked()
		everythingIsLocal(t, network)
		k.apply(t, k.build(state))
		tracer := netfilter.NewTracer(k.read(t))

		allowed := netip.PrefixFrom(external, external.BitLen()-8).Addr()
		for range 200 {
			allowed = allowed.Next()
		}
		// No subtests: they would run on threads outside of the namespace.
		for _, probe := range []struct {
			name     string
			address  int
			protocol gateway.Protocol
			port     uint16
		}{
			{"no backends", crowded, gateway.TCP, 80},
			{"one backend, masquerade off", crowded, gateway.TCP, 95},
			{"source checked", crowded, gateway.TCP, 86},
			{"nobody allowed", crowded, gateway.TCP, 131},
			{"several backends", crowded, gateway.TCP, 98},
			{"last leaf", 11, gateway.TCP, 167},
			{"chain of its own", crowded, gateway.TCP, 1000},
			{"within a range", crowded, gateway.TCP, 33000},
			{"shifted", crowded, gateway.UDP, 8005},
			{"not mapped", crowded, gateway.TCP, 81},
			{"another protocol", crowded, gateway.UDP, 80},
			{"another address", 100, gateway.TCP, 80},
		} {
			to := external
			for range probe.address {
				to = to.Next()
			}
			p := netfilter.Packet{Protocol: probe.protocol, State: netfilter.New, Direction: netfilter.Original,
				Source: netip.AddrPortFrom(allowed, 0), Destination: netip.AddrPortFrom(to, probe.port),
				Route: func(netip.Addr, uint32) string { return "lo" }}
			before := k.counters(t)
			send(t, p)
			got := moved(before, k.counters(t))
			if want, agree := foreseen(tracer, p, got); !agree {
				t.Errorf("%s: the tracer foresees other rules than those that matched:\n%s", probe.name, cmp.Diff(want, got))
			}
		}
	})
}

// foreseen returns the rules of nat that the tracer says match, and whether they are those that did. Which way chance led is
// known by the rules that matched.
func foreseen(tracer *netfilter.Tracer, p netfilter.Packet, matched []string) (want []string, agree bool) {
	for n := range 20 {
		p.Chance = func(uint32) bool { n--; return n == -1 }
		if want = natSteps(tracer.Trace(p)); slices.Equal(want, matched) {
			return want, true
		}
	}
	return want, false
}

// everythingIsLocal makes every address of a network the host's own.
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
}

// send sends the first packet of a connection and nothing after it.
func send(t *testing.T, p netfilter.Packet) {
	t.Helper()
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
	// How it ends depends on what the rules do to it.
	_ = unix.Connect(fd, sockaddr(p.Destination))
	if kind == unix.SOCK_DGRAM {
		_, _ = unix.Write(fd, []byte("x"))
	}
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
}

func natSteps(trace netfilter.Trace) []string {
	var steps []string
	for _, s := range trace.Steps {
		if s.Table == "nat" {
			steps = append(steps, fmt.Sprintf("%s %d", s.Chain, s.Number))
		}
	}
	if trace.Verdict == netfilter.Reject {
		// The answer belongs to the same connection, and is the first packet of it to get there.
		steps = append(steps, "POSTROUTING 1")
	}
	slices.Sort(steps)
	return steps
}

// counters returns the packet counters of the rules of nat.
func (k kernel) counters(t *testing.T) map[string]string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), k.programs[k.family].save(), "-c", "-t", "nat").Output()
	if err != nil {
		t.Fatal(err)
	}
	counters, numbers := map[string]string{}, map[string]int{}
	for line := range strings.Lines(string(out)) {
		counter, rule, found := strings.Cut(line, " -A ")
		if !found {
			continue
		}
		chain, _, _ := strings.Cut(rule, " ")
		numbers[chain]++
		counters[fmt.Sprintf("%s %d", chain, numbers[chain])] = counter
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
