// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package program

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/iptables/ruleset"
	"github.com/smartnat/smartnat/pkg/packet"
)

// TestTracerAgreesWithTheForwardingKernel sends first packets to the gateway's links and compares the rules of all tables
// whose counters moved with the rules that the tracer predicts.
func TestTracerAgreesWithTheForwardingKernel(t *testing.T) {
	inKernel(t, func(t *testing.T, k kernel) {
		at := func(n int) netip.Addr { return address(k.family, n) }
		network := newGateway(t, k.family)
		k.apply(t, k.build(k.state()))
		tracer := ruleset.NewTracer(k.read(t))
		outside := at(250)
		port := uint16(40000)
		for _, probe := range []struct {
			name     string
			in       string
			from, to netip.Addr
			protocol gateway.Protocol
			port     uint16
			flags    byte
			verdict  packet.Verdict
			out      string
			source   netip.Addr
		}{
			{"a client of a forward", "eth1", outside, at(1), gateway.TCP, 167, syn, packet.Accept, "eth0", outside},
			{"through the other uplink, groups of backends", "eth2", outside, at(1 + crowded), gateway.TCP, 1000, syn, packet.Accept, "eth0", outside},
			{"a range", "eth2", outside, at(1 + crowded), gateway.UDP, 8005, 0, packet.Accept, "eth0", outside},
			{"a source that is not allowed", "eth1", outside.Next(), at(1 + crowded), gateway.TCP, 131, syn, packet.Drop, "", outside.Next()},
			{"a pod, hairpin", "eth0", at(100), at(1), gateway.TCP, 167, syn, packet.Accept, "eth0", at(100)},
			{"a pod through the first uplink", "eth0", at(100), outside, gateway.TCP, 80, syn, packet.Accept, "eth1", at(1)},
			{"a pod through the second uplink", "eth0", at(101), outside, gateway.UDP, 53, 0, packet.Accept, "eth2", at(2)},
			{"a pod without egress", "eth0", at(140), outside, gateway.UDP, 53, 0, packet.Accept, "eth1", at(140)},
			{"a pod to another pod", "eth0", at(101), at(140), gateway.UDP, 53, 0, packet.Accept, "eth0", at(101)},
			{"a neighbour with the address of a pod", "eth1", at(101), at(140), gateway.UDP, 53, 0, packet.Drop, "eth0", at(101)},
			{"a neighbour to a pod", "eth2", outside, at(140), gateway.TCP, 80, syn, packet.Drop, "eth0", outside},
			{"an invalid packet of a pod", "eth0", at(140), outside, gateway.TCP, 80, syn | fin, packet.Drop, "eth1", at(140)},
		} {
			p := packet.Packet{In: probe.in, Protocol: probe.protocol, State: packet.New, Direction: packet.Original, SYN: probe.flags&syn > 0,
				Destination: netip.AddrPortFrom(probe.to, probe.port), Route: network.route}
			if probe.flags == syn|fin {
				p.State = packet.Invalid
			}
			var last, want []string
			agree := false
			// The kernel sends packets of its own while links are young, so retry.
			for range 10 {
				port++
				p.Source = netip.AddrPortFrom(probe.from, port)
				before := k.counters(t, allTables...)
				network.send(t, p, probe.flags)
				var trace packet.Trace
				for deadline := time.Now().Add(200 * time.Millisecond); !agree && time.Now().Before(deadline); {
					last = moved(before, k.counters(t, allTables...))
					trace, want, agree = foreseenEverywhere(tracer, p, last)
				}
				if agree {
					if trace.Verdict != probe.verdict || trace.Packet.Source.Addr() != probe.source || probe.out != "" && trace.Out != probe.out {
						t.Errorf("%s: verdict %s, link %s, source %s; want verdict %s, link %s, source %s", probe.name, trace.Verdict, trace.Out, trace.Packet.Source,
							probe.verdict, probe.out, probe.source)
					}
					break
				}
			}
			if !agree {
				t.Errorf("%s: matching rules (-predicted +kernel):\n%s", probe.name, cmp.Diff(want, last))
			}
		}
	})
}

// TestMulticastIsNotRefused joins a multicast group. The kernel builds the membership report with another value in the mark
// field (mark and reserved_tailroom share a union in struct sk_buff), and the rules must not take its bits for ours.
func TestMulticastIsNotRefused(t *testing.T) {
	inKernel(t, func(t *testing.T, k kernel) {
		newGateway(t, k.family)
		k.apply(t, k.build(k.state()))
		link, err := net.InterfaceByName("eth0")
		if err != nil {
			t.Fatal(err)
		}
		before := k.counters(t, "filter")
		network, group := "udp4", "239.1.2.3"
		if k.family == gateway.IPv6 {
			network, group = "udp6", "ff02::1234"
		}
		conn, err := net.ListenMulticastUDP(network, link, &net.UDPAddr{IP: net.ParseIP(group), Port: 5353})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		var after []string
		for deadline := time.Now().Add(5 * time.Second); !slices.Contains(after, "filter OUTPUT 1"); {
			if time.Now().After(deadline) {
				t.Fatalf("no packet was sent; matching rules: %q", after)
			}
			after = moved(before, k.counters(t, "filter"))
		}
		if refused := "filter " + own.ChainPrefix + "REFUSE 1"; slices.Contains(after, refused) {
			t.Errorf("the report is refused; matching rules: %q", after)
		}
	})
}

var allTables = []string{"mangle", "filter", "nat"}

// foreseenEverywhere is like foreseen but compares all tables.
func foreseenEverywhere(tracer *ruleset.Tracer, p packet.Packet, matched []string) (trace packet.Trace, want []string, agree bool) {
	for trace = range tracer.Outcomes(p) {
		want = nil
		for _, s := range trace.Steps {
			want = append(want, step(s.Table, s.Chain, s.Number))
		}
		slices.Sort(want)
		// FORWARD and POSTROUTING may both pass a chain, whose counter then moves only once in the comparison.
		if want = slices.Compact(want); slices.Equal(want, matched) {
			return trace, want, true
		}
	}
	return trace, want, false
}

// TCP flags.
const (
	fin = 1
	syn = 2
)

// testGateway is a network namespace that forwards between three links. Tests inject packets at the far ends.
type testGateway struct {
	inside []netip.Prefix
	links  map[string]*netlink.Veth
}

func newGateway(t *testing.T, family gateway.Family) *testGateway {
	t.Helper()
	// Disable redirects (IPv6 sends none from a link without an address) and checksum verification, because the test packets
	// have no checksums.
	for name, value := range map[string]string{
		"ipv4/ip_forward": "1", "ipv6/conf/all/forwarding": "1", "netfilter/nf_conntrack_checksum": "0",
		"ipv4/conf/all/send_redirects": "0", "ipv4/conf/default/send_redirects": "0", "ipv6/conf/default/addr_gen_mode": "1",
	} {
		must(t, os.WriteFile("/proc/sys/net/"+name, []byte(value), 0o600))
	}
	bits := address(family, 0).BitLen()
	g := &testGateway{links: map[string]*netlink.Veth{}, inside: []netip.Prefix{
		netip.PrefixFrom(address(family, 64), bits-6), netip.PrefixFrom(address(family, 128), bits-6),
	}}
	for n, name := range []string{"eth0", "eth1", "eth2"} {
		link := g.addLink(t, name)
		host := netip.PrefixFrom(address(family, 245+n), bits)
		must(t, netlink.AddrAdd(link, &netlink.Addr{IPNet: ipNet(host), Flags: unix.IFA_F_NODAD}))
	}
	for _, p := range g.inside {
		g.addRoute(t, "eth0", unix.RT_TABLE_MAIN, p)
	}
	everything := netip.PrefixFrom(address(family, 0), 0).Masked()
	g.addRoute(t, "eth1", unix.RT_TABLE_MAIN, everything)
	// Traffic to inside networks stays inside, whatever its mark.
	addRule(t, family, own.RulePriority, unix.RT_TABLE_MAIN, own.Egress(), 0)
	for n := 1; n <= 2; n++ {
		g.addRoute(t, fmt.Sprintf("eth%d", n), own.Table(n), everything)
		addRule(t, family, own.RulePriority+1, own.Table(n), own.Uplink(n), -1)
	}
	return g
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// addLink adds a link and its far end. The link uses no neighbour discovery.
func (g *testGateway) addLink(t *testing.T, name string) netlink.Link {
	t.Helper()
	attributes := netlink.NewLinkAttrs()
	attributes.Name = name
	must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: attributes, PeerName: name + "-far"}))
	link, err := netlink.LinkByName(name)
	must(t, err)
	far, err := netlink.LinkByName(name + "-far")
	must(t, err)
	must(t, netlink.LinkSetARPOff(link))
	must(t, netlink.LinkSetUp(link))
	must(t, netlink.LinkSetUp(far))
	g.links[name] = &netlink.Veth{LinkAttrs: *far.Attrs(), PeerHardwareAddr: link.Attrs().HardwareAddr}
	return link
}

func (g *testGateway) addRoute(t *testing.T, link string, table int, to netip.Prefix) {
	t.Helper()
	must(t, netlink.RouteAdd(&netlink.Route{LinkIndex: g.links[link].ParentIndex, Dst: ipNet(to), Table: table}))
}

func addRule(t *testing.T, family gateway.Family, priority, table int, mark gateway.Mark, suppressPrefixLength int) {
	t.Helper()
	rule := netlink.NewRule()
	rule.Family = map[gateway.Family]int{gateway.IPv4: unix.AF_INET, gateway.IPv6: unix.AF_INET6}[family]
	rule.Priority, rule.Table, rule.Mark, rule.Mask, rule.SuppressPrefixlen = priority, table, mark.Value, &mark.Mask, suppressPrefixLength
	must(t, netlink.RuleAdd(rule))
}

// route returns the outgoing link, as the routes of the namespace select it.
func (g *testGateway) route(destination netip.Addr, mark uint32) string {
	for _, p := range g.inside {
		if p.Contains(destination) {
			return "eth0"
		}
	}
	if m := own.Uplink(2); mark&m.Mask == m.Value {
		return "eth2"
	}
	return "eth1"
}

// send injects a packet at the far end of its incoming link.
func (g *testGateway) send(t *testing.T, p packet.Packet, flags byte) {
	t.Helper()
	far := g.links[p.In]
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	frame := slices.Concat(far.PeerHardwareAddr, far.HardwareAddr)
	frame = append(frame, ipPacket(p, flags)...)
	if err := unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: far.Index}); err != nil {
		t.Fatalf("sending by %s: %v", far.Name, err)
	}
}

// ipPacket returns the frame after its hardware addresses.
func ipPacket(p packet.Packet, flags byte) []byte {
	protocol, header := byte(unix.IPPROTO_UDP), []byte{0, 8, 0, 0}
	if p.Protocol == gateway.TCP {
		protocol, header = unix.IPPROTO_TCP, []byte{0, 0, 0, 1, 0, 0, 0, 0, 5 << 4, flags, 255, 255, 0, 0, 0, 0}
	}
	payload := binary.BigEndian.AppendUint16(nil, p.Source.Port())
	payload = append(binary.BigEndian.AppendUint16(payload, p.Destination.Port()), header...)
	from, to := p.Source.Addr().AsSlice(), p.Destination.Addr().AsSlice()
	if p.Source.Addr().Is6() {
		return slices.Concat([]byte{0x86, 0xdd, 6 << 4, 0, 0, 0, 0, byte(len(payload)), protocol, 64}, from, to, payload)
	}
	ip := slices.Concat([]byte{4<<4 | 5, 0, 0, byte(20 + len(payload)), 0, 1, 0, 0, 64, protocol, 0, 0}, from, to)
	sum := uint32(0)
	for i := 0; i < len(ip); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(ip[i:]))
	}
	binary.BigEndian.PutUint16(ip[10:], ^uint16(sum+sum>>16))
	return slices.Concat([]byte{0x08, 0}, ip, payload)
}
