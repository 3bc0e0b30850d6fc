// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/gateway/gatewaytest"
)

var (
	families  = []gateway.Family{gateway.IPv4, gateway.IPv6}
	ownership = gateway.DefaultOwnership()
	uplinks   = []gateway.Uplink{{Link: "eth1", Number: 1}, {Link: "eth2", Number: 2}}
	both      = gateway.Families{IPv4: true, IPv6: true}
)

// external, inside and client return addresses of either family, so that one scenario serves both.
func external(family gateway.Family, n int) netip.Addr { return address(family, 0xC0000200, n) }
func inside(family gateway.Family, n int) netip.Addr   { return address(family, 0x0AF40000, n) }
func client(family gateway.Family, n int) netip.Addr   { return address(family, 0xCB007100, n) }

func address(family gateway.Family, base, n int) netip.Addr {
	n += base
	bytes := [4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}
	if family == gateway.IPv4 {
		return netip.AddrFrom4(bytes)
	}
	return netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 12: bytes[0], bytes[1], bytes[2], bytes[3]})
}

// clients returns a network of 16 clients.
func clients(family gateway.Family, n int) netip.Prefix {
	a := client(family, 16*n)
	return netip.PrefixFrom(a, a.BitLen()-4)
}

// pods returns the network of all inside addresses.
func pods(family gateway.Family) netip.Prefix {
	return netip.PrefixFrom(inside(family, 0), inside(family, 0).BitLen()-16)
}

func backends(family gateway.Family, n int, port uint16) []gateway.Backend {
	var pods []netip.Addr
	for i := range n {
		pods = append(pods, inside(family, 1+i))
	}
	return gatewaytest.BackendsAt(port, pods...)
}

// forward returns a Forward for tests to modify.
func forward(family gateway.Family, address int, protocol gateway.Protocol, first, last uint16, b []gateway.Backend) *gateway.Forward {
	return gatewaytest.Forward(external(family, address), protocol, first, last, b...)
}

func with(f *gateway.Forward, change func(f *gateway.Forward)) *gateway.Forward {
	return gatewaytest.With(f, change)
}

func stateOf(forwards ...*gateway.Forward) gateway.State {
	return gateway.State{Uplinks: uplinks, Forwards: gatewaytest.Sort(forwards)}
}

// scenarios are small, so that their golden files are readable.
var scenarios = []struct {
	name  string
	state func(family gateway.Family) gateway.State
}{
	{"nothing", func(gateway.Family) gateway.State { return gateway.State{} }},
	{"forwards", forwards},
	{"ranges", func(family gateway.Family) gateway.State {
		shift := func(f *gateway.Forward) { f.Shift = true }
		return stateOf(
			with(forward(family, 1, gateway.UDP, 20000, 20999, backends(family, 2, 30000)), shift),
			with(forward(family, 1, gateway.UDP, 40000, 40099, backends(family, 1, 40000)), shift),
			with(forward(family, 1, gateway.UDP, 16384, 16639, backends(family, 2, 16640)), shift),
			forward(family, 2, gateway.TCP, 1, 1023, backends(family, 3, 8080)),
			with(forward(family, 2, gateway.TCP, 2000, 2001, backends(family, 1, 80)), func(f *gateway.Forward) { f.SourcesDeny = true }),
		)
	}},
	{"affinity", func(family gateway.Family) gateway.State {
		stays := func(f *gateway.Forward) { f.Affinity = 3*time.Hour + 1500*time.Millisecond }
		shared := with(forward(family, 2, gateway.TCP, 9000, 9000, backends(family, 1, 80)), stays)
		shared.Backends = append(shared.Backends, gateway.Backend{Address: inside(family, 1), Port: 81})
		return stateOf(
			with(forward(family, 1, gateway.TCP, 443, 443, backends(family, 3, 8443)), stays),
			with(forward(family, 1, gateway.TCP, 80, 80, backends(family, 3, 8080)), stays),
			with(forward(family, 1, gateway.UDP, 53, 53, backends(family, 1, 53)), stays), shared,
			with(forward(family, 3, gateway.TCP, 100, 109, backends(family, 2, 8080)), stays),
			with(forward(family, 3, gateway.UDP, 100, 109, backends(family, 2, 200)), func(f *gateway.Forward) { f.Affinity, f.Shift = time.Hour, true }),
			with(forward(family, 4, gateway.UDP, 100, 109, backends(family, 2, 100)), func(f *gateway.Forward) { f.Affinity, f.Shift = time.Hour, true }),
		)
	}},
	{"maglev", func(family gateway.Family) gateway.State {
		agrees := func(f *gateway.Forward) { f.Consistent = true }
		stays := func(f *gateway.Forward) { f.Consistent, f.Affinity = true, time.Hour }
		return stateOf(
			with(forward(family, 1, gateway.TCP, 80, 80, backends(family, 3, 8080)), agrees),
			with(forward(family, 1, gateway.UDP, 53, 53, backends(family, 2, 5353)), func(f *gateway.Forward) { f.Consistent, f.Masquerade = true, false }),
			with(forward(family, 1, gateway.TCP, 81, 81, backends(family, 1, 8080)), agrees),
			with(forward(family, 2, gateway.TCP, 443, 443, backends(family, 2, 8443)), stays),
			with(forward(family, 2, gateway.TCP, 100, 109, backends(family, 2, 8080)), agrees),
			with(forward(family, 2, gateway.UDP, 100, 109, backends(family, 2, 200)), func(f *gateway.Forward) { stays(f); f.Shift = true }),
		)
	}},
	{"host", host},
	{"sync", func(family gateway.Family) gateway.State {
		state := gateway.State{Uplinks: uplinks}
		state.Sync = gateway.SyncEndpoint{Address: inside(family, 2), Link: "eth3", Port: 3780}
		return state
	}},
	{"masquerade-addresses", masqueraded},
	{"masquerade-addresses-any-port", func(family gateway.Family) gateway.State {
		state := masqueraded(family)
		state.MasqueradePorts = gateway.PortRange{}
		return state
	}},
	{"on-node", onNode},
	{"flowtable", func(family gateway.Family) gateway.State {
		state := host(family)
		state.Flowtable = flowtable
		return state
	}},
	{"flowtable-one-uplink", func(family gateway.Family) gateway.State {
		state := stateOf(forward(family, 1, gateway.TCP, 80, 80, backends(family, 1, 8080)))
		state.Uplinks, state.Flowtable = uplinks[:1], flowtable
		return state
	}},
	{"flowtable-no-uplink", func(family gateway.Family) gateway.State {
		state := stateOf(forward(family, 1, gateway.TCP, 80, 80, backends(family, 1, 8080)))
		state.Uplinks, state.Flowtable = nil, flowtable
		return state
	}},
}

// onNode is a node with one of three pods. The other family has another one.
func onNode(family gateway.Family) gateway.State {
	state := stateOf(forward(family, 1, gateway.TCP, 80, 80, backends(family, 3, 8080)),
		with(forward(family, 1, gateway.UDP, 53, 53, backends(family, 3, 5353)), func(f *gateway.Forward) { f.Masquerade = false }))
	state.MasqueradeRemote, state.LocalBackends = true, []netip.Addr{inside(gateway.IPv4, 2), inside(gateway.IPv6, 3)}
	state.Egresses = []gateway.Egress{{Address: external(family, 1), Uplink: 1, Owner: "default/echo", Sources: []netip.Addr{inside(family, 2)}}}
	return state
}

// flowtable has a link that every network namespace has: the kernel refuses links that do not exist.
var flowtable = gateway.Flowtable{Families: both, Links: []gateway.FlowLink{{Name: "lo", Index: 1}}}

// forwards has one Forward of each kind with one port.
func forwards(family gateway.Family) gateway.State {
	allow := func(f *gateway.Forward) {
		f.Sources = []netip.Prefix{clients(family, 0), clients(family, 1), clients(family, 8)}
	}
	one := backends(family, 1, 8080)
	return stateOf(
		with(forward(family, 1, gateway.TCP, 8080, 8080, one), allow),
		with(forward(family, 1, gateway.TCP, 8081, 8081, one), allow),
		forward(family, 1, gateway.TCP, 8082, 8082, nil),
		with(forward(family, 1, gateway.TCP, 8083, 8083, nil), allow),
		with(forward(family, 1, gateway.TCP, 8084, 8084, one), func(f *gateway.Forward) { f.SourcesDeny = true }),
		with(forward(family, 1, gateway.UDP, 53, 53, backends(family, 3, 5353)), func(f *gateway.Forward) { f.Masquerade = false }),
		forward(family, 1, gateway.UDP, 54, 54, backends(family, 3, 5353)),
		forward(family, 2, gateway.SCTP, 9000, 9000, backends(family, 20, 9000)),
	)
}

// host uses every feature that is not one of a Forward.
func host(family gateway.Family) gateway.State {
	state := stateOf(
		forward(family, 1, gateway.TCP, 21, 21, backends(family, 1, 21)),
		forward(family, 2, gateway.TCP, 20, 30, backends(family, 1, 20)),
		forward(family, 3, gateway.TCP, 21, 21, nil),
		forward(family, 1, gateway.UDP, 69, 69, backends(family, 1, 69)),
	)
	state.Helpers = []gateway.Helper{{Name: "ftp", Protocol: gateway.TCP, Port: 21}, {Name: "tftp", Protocol: gateway.UDP, Port: 69}}
	state.Outside = []string{"br-wan", "eth3"}
	state.InsideNetworks = []netip.Prefix{pods(family)}
	state.BackendNetworks = []netip.Prefix{clients(family, 5)}
	state.ServiceRoutes = []gateway.ServiceRoute{{Destination: clients(family, 6)}}
	state.ForwardingOwned, state.BridgeNetfilter, state.InsideLinks = both, both, []string{"cilium_host", "eth0.100"}
	state.ClampMSS, state.MasqueradePorts = true, gateway.PortRange{First: 1024, Last: 65535}
	for n := range 2 {
		e := gateway.Egress{Address: external(family, 1+n), Uplink: 1 + n, Owner: "default/echo"}
		for i := range 3 {
			e.Sources = append(e.Sources, inside(family, 1+n+2*i))
		}
		state.Egresses = append(state.Egresses, e)
	}
	return state
}

// shared returns n addresses in the network of a link.
func shared(family gateway.Family, link, n int) []netip.Addr {
	var addresses []netip.Addr
	for i := range n {
		addresses = append(addresses, inside(family, 0x6400+0x10*link+i))
	}
	return addresses
}

// masqueraded has links with one and with several masquerade addresses.
func masqueraded(family gateway.Family) gateway.State {
	state := stateOf(
		forward(family, 1, gateway.TCP, 80, 80, backends(family, 1, 8080)),
		with(forward(family, 1, gateway.UDP, 53, 53, backends(family, 1, 5353)), func(f *gateway.Forward) { f.Masquerade = false }),
	)
	state.MasqueradeAddresses = []gateway.LinkAddresses{
		{Link: "eth0", Addresses: append(shared(gateway.IPv4, 0, 3), shared(gateway.IPv6, 0, 2)...)},
		{Link: "eth3", Addresses: shared(gateway.IPv4, 1, 1)},
		{Link: "eth4", Addresses: shared(gateway.IPv6, 2, 1)},
		{Link: "eth5", Addresses: append(shared(gateway.IPv4, 3, 1), shared(gateway.IPv6, 3, 1)...)},
	}
	state.MasqueradePorts = gateway.PortRange{First: 1024, Last: 65535}
	return state
}

// randomState returns a state with random features, crowded so that Forwards share chains and sets.
func randomState(random *rand.Rand, family gateway.Family) gateway.State {
	some := func() bool { return random.IntN(2) == 0 }
	state := gateway.State{Uplinks: uplinks[:random.IntN(3)], ClampMSS: some(), ForwardedOnly: some()}
	protocols := []gateway.Protocol{gateway.SCTP, gateway.TCP, gateway.UDP}
	for a := range random.IntN(5) {
		for _, protocol := range protocols[random.IntN(3):] {
			port := 1 + random.IntN(60000)
			for range random.IntN(20) {
				last := port
				if random.IntN(6) == 0 {
					last += 1 << random.IntN(10)
				}
				if last > 65000 {
					break
				}
				state.Forwards = append(state.Forwards, randomForward(random, forward(family, a, protocol, uint16(port), uint16(last), nil)))
				port = last + 1 + random.IntN(3)
			}
		}
	}
	state.Forwards = gatewaytest.Sort(state.Forwards)
	if some() {
		state.Outside = []string{"br-wan"}
	}
	if some() {
		state.InsideNetworks, state.InsideLinks = []netip.Prefix{pods(family)}, []string{"eth0"}
	}
	if some() {
		state.ForwardingOwned = both
	}
	if some() {
		state.BridgeNetfilter = both
	}
	if some() {
		state.MasqueradePorts = gateway.PortRange{First: 2000, Last: 60000}
	}
	for i, link := range []string{"eth0", "eth1"} {
		if n := random.IntN(4); n > 0 {
			state.MasqueradeAddresses = append(state.MasqueradeAddresses, gateway.LinkAddresses{Link: link, Addresses: shared(family, i, n)})
		}
	}
	for n := range state.Uplinks {
		e := gateway.Egress{Address: external(family, n), Uplink: n + 1, Owner: fmt.Sprintf("default/mapping-%d", n)}
		for i := range random.IntN(4) {
			e.Sources = append(e.Sources, inside(family, 0x100*(n+1)+i))
		}
		state.Egresses = append(state.Egresses, e)
	}
	if state.MasqueradeRemote = some(); state.MasqueradeRemote {
		for pod := range 5 {
			if some() {
				state.LocalBackends = append(state.LocalBackends, inside(family, pod))
			}
		}
	}
	return state
}

func randomForward(random *rand.Rand, f *gateway.Forward) *gateway.Forward {
	family := gateway.IPv4
	if f.Address.Is6() {
		family = gateway.IPv6
	}
	f.Backends = backends(family, random.IntN(5), uint16(1+random.IntN(60000)))
	if len(f.Backends) > 0 && random.IntN(6) == 0 {
		f.Backends = append(f.Backends, gateway.Backend{Address: f.Backends[len(f.Backends)-1].Address, Port: f.Backends[0].Port + 1})
	}
	if random.IntN(4) == 0 {
		f.Affinity = 3 * time.Hour
	}
	f.Consistent = random.IntN(10) == 0
	f.Masquerade, f.Shift = random.IntN(4) > 0, !f.Ports.Single() && random.IntN(2) == 0
	for i := range random.IntN(3) {
		f.Sources = append(f.Sources, clients(family, 2*i))
	}
	f.SourcesDeny = random.IntN(16) == 0
	if f.SourcesDeny {
		f.Sources = nil
	}
	f.Service = fmt.Sprintf("default/service-%d", random.IntN(3))
	return f
}

func hostPrefix(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }
