// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package conntrack

import (
	"net/netip"
	"testing"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/gateway/gatewaytest"
)

const (
	tcp  = gateway.TCP
	udp  = gateway.UDP
	sctp = gateway.SCTP
)

// made returns a connection of a client to a frontend, translated to a backend and masqueraded.
func made(protocol gateway.Protocol, source, destination, backend string) flow {
	f := direct(protocol, source, destination)
	f.answeredBy = netip.MustParseAddrPort(backend)
	gateway := netip.MustParseAddr("10.10.0.2")
	if f.source.Addr().Is6() {
		gateway = netip.MustParseAddr("2001:db8:10::2")
	}
	f.answeredTo = netip.AddrPortFrom(gateway, f.source.Port()^f.destination.Port()) // any port
	return f
}

// kept is made without masquerading.
func kept(protocol gateway.Protocol, source, destination, backend string) flow {
	f := made(protocol, source, destination, backend)
	f.answeredTo = f.source
	return f
}

// direct returns a connection without translation.
func direct(protocol gateway.Protocol, source, destination string) flow {
	from, to := netip.MustParseAddrPort(source), netip.MustParseAddrPort(destination)
	return flow{protocol: protocol, source: from, destination: to, answeredBy: to, answeredTo: from}
}

// leaves returns a connection that a pod opened with an external address.
func leaves(protocol gateway.Protocol, source, destination, external string) flow {
	f := direct(protocol, source, destination)
	f.answeredTo = netip.MustParseAddrPort(external)
	return f
}

func expected(f flow) flow {
	f.expected = true
	return f
}

func forward(address string, protocol gateway.Protocol, first, last uint16, to ...string) *gateway.Forward {
	return gatewaytest.Forward(netip.MustParseAddr(address), protocol, first, last, gatewaytest.Backends(to...)...)
}

func state(forwards ...*gateway.Forward) gateway.State { return gateway.State{Forwards: forwards} }

func egress(external string, pods ...string) gateway.State {
	return gateway.State{Egresses: []gateway.Egress{{Address: netip.MustParseAddr(external), Uplink: 1, Sources: gatewaytest.Addrs(pods...)}}}
}

const (
	client = "192.0.2.10:40000"
	public = "198.51.100.10"
	front  = public + ":80"
	pod1   = "10.244.1.2:8080"
	pod2   = "10.244.2.2:8080"
	vip    = "10.96.0.7:80"
)

// TestKeeps decides about connections with our mark.
func TestKeeps(t *testing.T) {
	neighbours := []*gateway.Forward{
		forward("198.51.100.9", tcp, 80, 80, pod1), forward(public, tcp, 79, 79, pod1), forward(public, tcp, 80, 80, pod1, pod2),
		forward(public, tcp, 81, 81, pod1), forward(public, udp, 80, 80, pod2), forward("198.51.100.11", tcp, 80, 80, pod1),
	}
	draining := gatewaytest.With(forward(public, tcp, 80, 80, pod2), func(f *gateway.Forward) { f.Draining = gatewaytest.Backends(pod1) })
	drainingUDP := gatewaytest.With(draining, func(f *gateway.Forward) { f.Protocol = udp })
	drainingSCTP := gatewaytest.With(draining, func(f *gateway.Forward) { f.Protocol = sctp })
	shifted := gatewaytest.With(forward(public, udp, 20000, 20999, "10.244.1.2:30000"), func(f *gateway.Forward) { f.Shift = true })
	identity := gatewaytest.With(forward(public, udp, 20000, 20999, "10.244.1.2:20000"), func(f *gateway.Forward) { f.Shift = true })
	toTop := gatewaytest.With(forward(public, udp, 60000, 65535, "10.244.1.2:60000"), func(f *gateway.Forward) { f.Shift = true })
	merged := forward(public, udp, 20000, 20999, "10.244.1.2:53")
	const public6, pod6, client6 = "2001:db8:1::10", "[fd00:244:1::2]:8080", "[2001:db8:2::10]:40000"
	six := forward(public6, tcp, 80, 80, pod6)

	for _, tc := range []struct {
		name  string
		state gateway.State
		flow  flow
		want  bool
	}{
		{"as made", state(neighbours...), made(tcp, client, front, pod1), true},
		{"as made, to the other endpoint", state(neighbours...), made(tcp, client, front, pod2), true},
		{"as made, with the client's address", state(neighbours...), kept(tcp, client, front, pod1), true},
		{"masqueraded, but would not be any more", state(gatewaytest.With(forward(public, tcp, 80, 80, pod1), func(f *gateway.Forward) { f.Masquerade = false })), made(tcp, client, front, pod1), true},
		{"not masqueraded, but would be now", state(forward(public, tcp, 80, 80, pod1)), kept(tcp, client, front, pod1), true},
		{"the Mapping belongs to another owner now", state(gatewaytest.With(forward(public, tcp, 80, 80, pod1), func(f *gateway.Forward) { f.Owner = "b/b" })), made(tcp, client, front, pod1), true},
		{"affinity now leads elsewhere", state(gatewaytest.With(forward(public, tcp, 80, 80, pod1, pod2), func(f *gateway.Forward) { f.Affinity = 1 })), made(tcp, client, front, pod1), true},

		{"nothing is forwarded any more", state(), made(tcp, client, front, pod1), false},
		{"the Mapping was deleted, its neighbours stay", state(append(neighbours[:2:2], neighbours[3:]...)...), made(tcp, client, front, pod1), false},
		{"the same port of another protocol", state(forward(public, udp, 80, 80, pod1)), made(tcp, client, front, pod1), false},
		{"the same backend under another Forward", state(forward(public, tcp, 81, 81, pod1), forward("198.51.100.11", tcp, 80, 80, pod1)), made(tcp, client, front, pod1), false},
		{"scaled to zero", state(forward(public, udp, 80, 80)), made(udp, client, front, pod1), false},
		{"scaled to zero, TCP", state(forward(public, tcp, 80, 80)), made(tcp, client, front, pod1), false},
		{"a removed endpoint", state(forward(public, udp, 80, 80, pod2)), made(udp, client, front, pod1), false},
		{"a removed endpoint, TCP", state(forward(public, tcp, 80, 80, pod2)), made(tcp, client, front, pod1), false},
		{"a removed endpoint, SCTP", state(forward(public, sctp, 80, 80, pod2)), made(sctp, client, front, pod1), false},
		{"the endpoint's port changed", state(forward(public, tcp, 80, 80, "10.244.1.2:8081")), made(tcp, client, front, pod1), false},
		{"another ClusterIP", state(forward(public, tcp, 80, 80, "10.96.0.8:80")), made(tcp, client, front, vip), false},
		{"another ClusterIP, UDP", state(forward(public, udp, 80, 80, "10.96.0.8:80")), made(udp, client, front, vip), false},
		{"the same ClusterIP", state(forward(public, udp, 80, 80, vip)), made(udp, client, front, vip), true},
		{"endpoints replaced by service mode", state(forward(public, tcp, 80, 80, vip)), made(tcp, client, front, pod1), false},

		{"a draining endpoint", state(draining), made(tcp, client, front, pod1), true},
		{"a draining endpoint, UDP", state(drainingUDP), made(udp, client, front, pod1), false},
		{"a draining endpoint, SCTP", state(drainingSCTP), made(sctp, client, front, pod1), false},
		{"next to a draining endpoint", state(draining), made(tcp, client, front, pod2), true},
		{"all of them drain", state(gatewaytest.With(draining, func(f *gateway.Forward) { f.Backends = nil })), made(tcp, client, front, pod1), true},
		{"a draining endpoint, but the source may not connect any more", state(gatewaytest.From(draining, "203.0.113.0/24")), made(tcp, client, front, pod1), false},

		{"a source that is allowed", state(gatewaytest.From(forward(public, tcp, 80, 80, pod1), "192.0.2.0/28", "203.0.113.0/24")), made(tcp, client, front, pod1), true},
		{"a source that was revoked", state(gatewaytest.From(forward(public, tcp, 80, 80, pod1), "192.0.2.0/29", "203.0.113.0/24")), made(tcp, client, front, pod1), false},
		{"all sources are denied", state(gatewaytest.With(forward(public, tcp, 80, 80, pod1), func(f *gateway.Forward) { f.SourcesDeny = true })), made(tcp, client, front, pod1), false},

		{"a shifted range", state(shifted), made(udp, client, public+":20007", "10.244.1.2:30007"), true},
		{"a shifted range, its first port", state(shifted), made(udp, client, public+":20000", "10.244.1.2:30000"), true},
		{"a shifted range, its last port", state(shifted), made(udp, client, public+":20999", "10.244.1.2:30999"), true},
		{"after a shifted range", state(shifted), made(udp, client, public+":21000", "10.244.1.2:31000"), false},
		{"before a shifted range", state(shifted), made(udp, client, public+":19999", "10.244.1.2:29999"), false},
		{"a shifted range with another shift", state(shifted), made(udp, client, public+":20007", "10.244.1.2:20007"), false},
		{"a range that is not shifted any more", state(identity), made(udp, client, public+":20007", "10.244.1.2:30007"), false},
		{"a range of the same ports", state(identity), made(udp, client, public+":20007", "10.244.1.2:20007"), true},
		{"a range up to the last port", state(toTop), made(udp, client, public+":65535", "10.244.1.2:65535"), true},
		{"a range to one port", state(merged), made(udp, client, public+":20007", "10.244.1.2:53"), true},
		{"a range to one port, another one", state(merged), made(udp, client, public+":20007", "10.244.1.2:60"), false},
		{"a range that lost the endpoint", state(gatewaytest.With(shifted, func(f *gateway.Forward) { f.Backends = gatewaytest.Backends("10.244.2.2:30000") })), made(udp, client, public+":20007", "10.244.1.2:30007"), false},

		{"IPv6", state(six), made(tcp, client6, "["+public6+"]:80", pod6), true},
		{"IPv6, a removed endpoint", state(forward(public6, tcp, 80, 80, "[fd00:244:2::2]:8080")), made(tcp, client6, "["+public6+"]:80", pod6), false},
		{"IPv6, a source that was revoked", state(gatewaytest.From(six, "2001:db8:3::/48")), made(tcp, client6, "["+public6+"]:80", pod6), false},

		{"egress", egress(public, "10.244.1.2", "10.244.1.3"), leaves(tcp, "10.244.1.2:5000", "192.0.2.10:443", public+":5000"), true},
		{"egress of a protocol that cannot be exposed", egress(public, "10.244.1.2"), leaves("", "10.244.1.2:0", "192.0.2.10:0", public+":0"), true},
		{"egress, UDP to a port that is exposed elsewhere", gateway.State{Forwards: neighbours, Egresses: egress(public, "10.244.1.2").Egresses}, leaves(udp, "10.244.1.2:5000", "192.0.2.10:80", public+":5000"), true},
		{"egress of a source that lost it", egress(public, "10.244.1.3"), leaves(tcp, "10.244.1.2:5000", "192.0.2.10:443", public+":5000"), false},
		{"egress with another address now", egress("198.51.100.11", "10.244.1.2"), leaves(tcp, "10.244.1.2:5000", "192.0.2.10:443", public+":5000"), false},
		{"egress when there is none any more", state(neighbours...), leaves(udp, "10.244.1.2:5000", "192.0.2.10:443", public+":5000"), false},
		{"a pod with egress to a Mapping that was deleted", egress(public, "10.244.1.2"), made(tcp, "10.244.1.2:5000", front, pod2), false},
		{"a pod with egress to a Mapping", gateway.State{Forwards: neighbours, Egresses: egress(public, "10.244.1.2").Egresses}, made(tcp, "10.244.1.2:5000", front, pod1), true},

		{"the address is absent", gateway.State{Absent: gateway.Absent{Forwards: neighbours}}, made(tcp, client, front, pod1), true},
		{"the address is absent, UDP", gateway.State{Absent: gateway.Absent{Forwards: neighbours}}, made(udp, client, front, pod2), true},
		{"the address is absent, others are here", gateway.State{Forwards: state(six).Forwards, Absent: gateway.Absent{Forwards: neighbours}}, made(tcp, client, front, pod1), true},
		{"others are absent, the address is here", gateway.State{Forwards: neighbours, Absent: gateway.Absent{Forwards: state(six).Forwards}}, made(tcp, client, front, pod1), true},
		{"the address is absent, and a source was revoked", gateway.State{Absent: gateway.Absent{Forwards: state(gatewaytest.From(forward(public, tcp, 80, 80, pod1), "203.0.113.0/24")).Forwards}}, made(tcp, client, front, pod1), false},
		{"the address is absent, and an endpoint was removed", gateway.State{Absent: gateway.Absent{Forwards: state(forward(public, tcp, 80, 80, pod2)).Forwards}}, made(tcp, client, front, pod1), false},
		{"the address of an egress is absent", gateway.State{Absent: gateway.Absent{Egresses: egress(public, "10.244.1.2").Egresses}}, leaves(tcp, "10.244.1.2:5000", "192.0.2.10:443", public+":5000"), true},
		{"the address of an egress is absent, of another source", gateway.State{Absent: gateway.Absent{Egresses: egress(public, "10.244.1.3").Egresses}}, leaves(tcp, "10.244.1.2:5000", "192.0.2.10:443", public+":5000"), false},

		{"expected by a helper", state(), expected(made(tcp, client, public+":1025", "10.244.1.2:1025")), true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := newJudge(tc.state).keeps(tc.flow); got != tc.want {
				t.Errorf("keeps(%+v) = %t, want %t", tc.flow, got, tc.want)
			}
		})
	}
}

func replied(f flow) flow {
	f.answered = true
	return f
}

// TestTakesOver decides about flows without our mark.
func TestTakesOver(t *testing.T) {
	exposed := state(forward(public, tcp, 80, 80, pod1), forward(public, udp, 80, 80, pod1))
	for _, tc := range []struct {
		name  string
		state gateway.State
		flow  flow
		want  bool
	}{
		{"to a Forward", exposed, direct(udp, client, front), true},
		{"to a Forward, TCP connects again by itself", exposed, direct(tcp, client, front), false},
		{"to another port", exposed, direct(udp, client, public+":81"), false},
		{"to another address", exposed, direct(udp, client, "198.51.100.11:80"), false},
		{"answered by the host", exposed, replied(direct(udp, client, front)), false},
		{"translated by another program's rule to another place", exposed, replied(made(udp, client, front, "172.17.0.2:80")), true},
		{"translated so, and not answered", exposed, made(udp, client, front, "172.17.0.2:80"), true},
		{"translated so to a backend", exposed, replied(made(udp, client, front, pod1)), false},
		{"translated so, TCP", exposed, replied(made(tcp, client, front, "172.17.0.2:80")), false},
		{"translated so, to another port", exposed, replied(made(udp, client, public+":81", "172.17.0.2:80")), false},
		{"translated so, from a source that is not allowed", state(gatewaytest.From(forward(public, udp, 80, 80, pod1), "203.0.113.0/24")), replied(made(udp, client, front, "172.17.0.2:80")), false},
		{"masqueraded by another program", exposed, leaves(udp, client, front, "10.10.0.2:45000"), false},
		{"from a source that is not allowed", state(gatewaytest.From(forward(public, udp, 80, 80, pod1), "203.0.113.0/24")), direct(udp, client, front), false},
		{"a Forward without backends", state(forward(public, udp, 80, 80)), direct(udp, client, front), false},
		{"the address is absent", gateway.State{Absent: gateway.Absent{Forwards: exposed.Forwards}}, direct(udp, client, front), false},
		{"expected by a helper", exposed, expected(direct(udp, client, front)), false},
		{"from a pod that leaves", egress(public, "10.244.1.2"), direct(tcp, "10.244.1.2:40000", "192.0.2.9:80"), true},
		{"from a pod that leaves, answered", egress(public, "10.244.1.2"), replied(direct(tcp, "10.244.1.2:40000", "192.0.2.9:80")), false},
		{"from a pod that leaves, with another's address", egress(public, "10.244.1.2"), leaves(tcp, "10.244.1.2:40000", "192.0.2.9:80", "10.10.0.2:45000"), false},
		{"from another pod", egress(public, "10.244.1.2"), direct(udp, "10.244.1.3:40000", "192.0.2.9:80"), false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := newJudge(tc.state).takesOver(tc.flow); got != tc.want {
				t.Errorf("takesOver(%+v) = %t, want %t", tc.flow, got, tc.want)
			}
		})
	}
}
