// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package dataplane_test

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/packet"
	"github.com/smartnat/smartnat/pkg/policyrouting"
)

// view holds everything that affects packets, as read from a kernel.
type view struct {
	tracers map[gateway.Family]packet.Tracer
	routing policyrouting.Set
	sysctls map[string]string
}

func look(t *testing.T, opts parts) view {
	t.Helper()
	v := view{tracers: opts.tracers(t), sysctls: map[string]string{}}
	var err error
	if v.routing, err = opts.Routes.Observe(); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{
		"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding",
		"net/ipv4/conf/all/rp_filter", "net/ipv4/conf/eth1/rp_filter", "net/ipv4/conf/eth2/rp_filter",
	} {
		if v.sysctls[key], err = opts.Sysctls.Get(key); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
	}
	return v
}

const (
	unreachable = "nowhere"
	dropped     = "dropped"
)

// ownAddresses are the addresses of the host. mainRoutes are its own routes, best first.
var (
	ownAddresses = addrs("198.51.100.10", "203.0.113.10", "2001:db8:1::10", "2001:db8:2::10", "10.10.0.2")
	mainRoutes   = []policyrouting.Route{
		{Destination: netip.MustParsePrefix("10.10.0.0/24"), Link: "eth0"},
		{Destination: netip.MustParsePrefix("10.244.0.0/16"), Link: "eth0"},
		{Destination: netip.MustParsePrefix("fd00:244::/32"), Link: "eth0"},
		{Destination: netip.MustParsePrefix("198.51.100.0/24"), Link: "eth1"},
		{Destination: netip.MustParsePrefix("203.0.113.0/24"), Link: "eth2"},
		{Destination: netip.MustParsePrefix("2001:db8:1::/64"), Link: "eth1"},
		{Destination: netip.MustParsePrefix("2001:db8:2::/64"), Link: "eth2"},
		{Destination: netip.MustParsePrefix("0.0.0.0/0"), Link: "eth1"},
		{Destination: netip.MustParsePrefix("::/0"), Link: "eth1"},
	}
)

// route returns the link and the next hops for a destination, and no link for the host itself.
func (v view) route(destination netip.Addr, mark uint32) (link string, via []netip.Addr) {
	if slices.Contains(ownAddresses, destination) {
		return "", nil
	}
	for _, rule := range v.routing.Rules { // by priority
		if rule.IPv6 != destination.Is6() || mark&rule.Mark.Mask != rule.Mark.Value {
			continue
		}
		if r, found := v.lookup(destination, rule.Table); found && (!rule.NoDefault || r.Destination.Bits() > 0) {
			return cmp.Or(r.Link, "eth0"), r.Gateways
		}
	}
	if r, found := v.lookup(destination, policyrouting.MainTable); found {
		return cmp.Or(r.Link, "eth0"), r.Gateways
	}
	return unreachable, nil
}

func (v view) lookup(destination netip.Addr, table int) (best policyrouting.Route, found bool) {
	consider := func(r policyrouting.Route) {
		if r.Destination.Contains(destination) && (!found || r.Destination.Bits() > best.Destination.Bits()) {
			best, found = r, true
		}
	}
	for _, r := range v.routing.Routes {
		if r.Table == table {
			consider(r)
		}
	}
	if table == policyrouting.MainTable {
		for _, r := range mainRoutes {
			consider(r)
		}
	}
	return best, found
}

// outcome describes how a packet is handled, with all random choices.
type outcome struct {
	// end is where the packet ends. how adds the details.
	end, how string
}

func (v view) becomes(p packet.Packet) outcome {
	v4 := p.Destination.Addr().Is4()
	forwarding, family := v.sysctls["net/ipv6/conf/all/forwarding"], gateway.IPv6
	if v4 {
		forwarding, family = v.sysctls["net/ipv4/ip_forward"], gateway.IPv4
		strict := max(v.sysctls["net/ipv4/conf/all/rp_filter"], v.sysctls["net/ipv4/conf/"+p.In+"/rp_filter"]) == "1"
		if back, _ := v.route(p.Source.Addr(), 0); strict && p.In != "" && back != p.In {
			return outcome{dropped, dropped}
		}
	}
	p.Route = func(destination netip.Addr, mark uint32) string {
		link, _ := v.route(destination, mark)
		return link
	}
	var ends, hows []string
	for trace := range v.tracers[family].Outcomes(p) {
		end, how := v.explain(p, trace, forwarding == "1")
		ends, hows = append(ends, end), append(hows, end+how)
	}
	return outcome{anyOf(ends), anyOf(hows)}
}

func anyOf(ways []string) string {
	slices.Sort(ways)
	return strings.Join(slices.Compact(ways), " or ")
}

func (v view) explain(p packet.Packet, trace packet.Trace, forwarding bool) (end, how string) {
	switch {
	case p.In != "" && trace.Out != "" && !forwarding, trace.Verdict == packet.Drop:
		return dropped, ""
	case trace.Verdict == packet.Reject:
		return "rejected with " + trace.RejectWith, ""
	case trace.Out == "":
		return "to the host itself", ""
	}
	_, via := v.route(trace.Packet.Destination.Addr(), trace.Packet.Mark)
	return "to " + trace.Packet.Destination.String(), fmt.Sprintf(" by %s via %v from %s, masqueraded %t, clamped %t, connection marked %#x",
		trace.Out, via, trace.Packet.Source, trace.Masqueraded, trace.Clamped, trace.Packet.ConnMark)
}

// probe is a test packet.
type probe struct {
	name   string
	packet packet.Packet
}

// probes returns packets of all kinds that the states affect.
func probes(states ...gateway.State) []probe {
	var all []probe
	own := gateway.DefaultOwnership()
	seen := map[string]bool{}
	add := func(what string, p packet.Packet) {
		p.Protocol = gateway.TCP
		p.SYN = p.State&packet.New != 0
		name := fmt.Sprintf("%s from %s to %s by %q", what, p.Source, p.Destination, p.In)
		if !seen[name] {
			seen[name] = true
			all = append(all, probe{name, p})
		}
	}
	for _, uplink := range []struct {
		link string
		mark uint32
	}{{"eth1", own.Uplink(1).Value}, {"eth2", own.Uplink(2).Value}} {
		forwarded := own.Forwarded().Value | own.Masquerade().Value | uplink.mark
		for _, state := range states {
			for _, f := range state.Forwards {
				for _, client := range clients(f.Address.Is6()) {
					frontend := netip.AddrPortFrom(f.Address, f.Ports.First)
					for _, in := range []string{uplink.link, "eth0"} {
						add("a connection", packet.Packet{In: in, State: packet.New, Direction: packet.Original, Source: client, Destination: frontend})
					}
				}
				for _, b := range f.Backends {
					client, pod := clients(f.Address.Is6())[0], netip.AddrPortFrom(b.Address, b.Port)
					add("more of a connection", packet.Packet{
						In: uplink.link, State: packet.Established | packet.DNAT, Direction: packet.Original, ConnMark: forwarded, Source: client, Destination: pod,
					})
					add("a reply on "+uplink.link, packet.Packet{
						In: "eth0", State: packet.Established | packet.DNAT, Direction: packet.Reply, ConnMark: forwarded, Source: pod, Destination: client,
					})
				}
			}
		}
		for _, v6 := range []bool{false, true} {
			client := clients(v6)[0]
			for _, inside := range insides(v6) {
				add("over the boundary", packet.Packet{In: uplink.link, State: packet.New, Direction: packet.Original, Source: client, Destination: inside})
				add("over the boundary, invalid,", packet.Packet{In: uplink.link, State: packet.Invalid, Source: client, Destination: inside})
				add("over the boundary, established,", packet.Packet{
					In: uplink.link, State: packet.Established, Direction: packet.Original, Source: client, Destination: inside,
				})
				add("a pod's connection", packet.Packet{In: "eth0", State: packet.New, Direction: packet.Original, Source: inside, Destination: client})
			}
			for _, external := range ownAddresses[:4] {
				if external.Is6() != v6 {
					continue
				}
				ssh := netip.AddrPortFrom(external, 22)
				add("to the host", packet.Packet{In: uplink.link, State: packet.New, Direction: packet.Original, Source: client, Destination: ssh})
				add("the host's reply on "+uplink.link, packet.Packet{
					State: packet.Established, Direction: packet.Reply, ConnMark: uplink.mark, Source: ssh, Destination: client,
				})
			}
		}
	}
	return all
}

// clients returns addresses that all, some and none of the lists of sources allow.
func clients(v6 bool) []netip.AddrPort {
	sources := addrs("192.0.2.9", "10.0.5.9", "10.0.250.9", "172.16.0.9")
	if v6 {
		sources = addrs("2001:db8:c::9", "2001:db8:d::9")
	}
	return withPort(sources, 40000)
}

// insides returns addresses that the outside may reach only through a Mapping.
func insides(v6 bool) []netip.AddrPort {
	if v6 {
		return withPort(addrs("fd00:244:1::2", "fd00:244:2::2"), 8080)
	}
	return withPort(addrs("10.244.1.2", "10.244.2.2", "10.96.0.7"), 8080)
}

func withPort(addresses []netip.Addr, port uint16) []netip.AddrPort {
	var all []netip.AddrPort
	for _, a := range addresses {
		all = append(all, netip.AddrPortFrom(a, port))
	}
	return all
}

// judgement maps the name of each probe to its outcome.
type judgement map[string]outcome

func judge(v view, probes []probe) judgement {
	all := make(judgement, len(probes))
	for _, p := range probes {
		all[p.name] = v.becomes(p.packet)
	}
	return all
}

// expectBetween checks that the outcome is unchanged for packets that the change does not affect. All others must be dropped,
// or have the outcome of before or after: no packet passes that both states stop.
func expectBetween(t *testing.T, when string, before, after, got judgement) {
	t.Helper()
	const shown = 5
	wrong := 0
	for _, name := range slices.Sorted(maps.Keys(got)) {
		is, was, shall := got[name], before[name], after[name]
		if is == was || was != shall && (is.end == was.end || is.end == shall.end || is.end == dropped) {
			continue
		}
		if wrong++; wrong <= shown {
			t.Errorf("%s, %s:\n%s\nbefore: %s\nafter:  %s", when, name, is.how, was.how, shall.how)
		}
	}
	if wrong > shown {
		t.Errorf("%s: and %d more packets", when, wrong-shown)
	}
}
