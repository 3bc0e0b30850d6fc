// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/gateway/gatewaytest"
	"github.com/smartnat/smartnat/pkg/iptables/ruleset"
)

var update = flag.Bool("update", false, "write the golden files")

var (
	families = []gateway.Family{gateway.IPv4, gateway.IPv6}
	options  = Options{Ownership: gateway.DefaultOwnership(), RandomFully: true}
	uplinks  = []gateway.Uplink{{Link: "eth1", Number: 1}, {Link: "eth2", Number: 2}}
)

// external, inside and source return addresses of either family, so that one scenario serves both.
func external(family gateway.Family, n int) netip.Addr { return address(family, 0xC0000200, n) }
func inside(family gateway.Family, n int) netip.Addr   { return address(family, 0x0AF40000, n) }

func address(family gateway.Family, base, n int) netip.Addr {
	n += base
	bytes := [4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}
	if family == gateway.IPv4 {
		return netip.AddrFrom4(bytes)
	}
	return netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 12: bytes[0], bytes[1], bytes[2], bytes[3]})
}

func source(family gateway.Family, n int) netip.Prefix {
	a := address(family, 0xCB007100, 16*n)
	return netip.PrefixFrom(a, a.BitLen()-4)
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
	kept := forward(family, 1, gateway.UDP, 53, 53, backends(family, 1, 5353))
	kept.Masquerade = false
	return gateway.State{
		Uplinks:  uplinks,
		Forwards: gatewaytest.Sort([]*gateway.Forward{forward(family, 1, gateway.TCP, 80, 80, backends(family, 1, 8080)), kept}),
		MasqueradeAddresses: []gateway.LinkAddresses{
			{Link: "eth0", Addresses: append(shared(gateway.IPv4, 0, 3), shared(gateway.IPv6, 0, 2)...)},
			{Link: "eth3", Addresses: shared(gateway.IPv4, 1, 1)},
			{Link: "eth4", Addresses: shared(gateway.IPv6, 2, 1)},
			{Link: "eth5", Addresses: append(shared(gateway.IPv4, 3, 1), shared(gateway.IPv6, 3, 1)...)},
		},
		MasqueradePorts: gateway.PortRange{First: 1024, Last: 65535},
	}
}

// onNode is a node with one of three pods. The other family has another one.
func onNode(family gateway.Family) gateway.State {
	kept := forward(family, 1, gateway.UDP, 53, 53, backends(family, 3, 5353))
	kept.Masquerade = false
	return gateway.State{
		Uplinks: uplinks[:1], MasqueradeRemote: true, LocalBackends: []netip.Addr{inside(gateway.IPv4, 2), inside(gateway.IPv6, 3)},
		Forwards: gatewaytest.Sort([]*gateway.Forward{forward(family, 1, gateway.TCP, 80, 80, backends(family, 3, 8080)), kept}),
		Egresses: []gateway.Egress{{Address: external(family, 1), Uplink: 1, Owner: "default/echo", Sources: []netip.Addr{inside(family, 2)}}},
	}
}

// scenarios are small, so that their golden files are readable.
var scenarios = []struct {
	name  string
	state func(family gateway.Family) gateway.State
}{
	{"nothing", func(gateway.Family) gateway.State { return gateway.State{} }},
	{"forwards", func(family gateway.Family) gateway.State {
		allow := []netip.Prefix{source(family, 0), source(family, 1)}
		service := []gateway.Backend{{Address: inside(family, 99), Port: 8080}}
		limited := forward(family, 1, gateway.TCP, 8080, 8080, service)
		limited.Sources = allow
		limitedToo := forward(family, 1, gateway.TCP, 8081, 8081, service)
		limitedToo.Sources = allow
		empty := forward(family, 1, gateway.TCP, 8082, 8082, nil)
		emptyToo := forward(family, 1, gateway.TCP, 8090, 8090, nil)
		emptyToo.Owner = "default/other"
		denied := forward(family, 1, gateway.TCP, 8083, 8083, service)
		denied.SourcesDeny = true
		direct := forward(family, 1, gateway.UDP, 53, 53, backends(family, 3, 5353))
		direct.Masquerade, direct.Direct = false, true
		shifted := forward(family, 1, gateway.UDP, 20000, 20999, backends(family, 2, 30000))
		shifted.Shift, shifted.Direct = true, true
		kept := forward(family, 1, gateway.UDP, 40000, 40099, backends(family, 1, 40000))
		kept.Shift, kept.Direct = true, true
		manyToOne := forward(family, 2, gateway.TCP, 1, 1023, service)
		many := forward(family, 2, gateway.SCTP, 9000, 9000, backends(family, 20, 9000))
		many.Sources = allow[:1]
		return gateway.State{Uplinks: uplinks, Forwards: gatewaytest.Sort([]*gateway.Forward{
			limited, limitedToo, empty, emptyToo, denied, direct, shifted, kept, manyToOne, many,
		})}
	}},
	{"helpers", func(family gateway.Family) gateway.State {
		ftp := forward(family, 1, gateway.TCP, 21, 21, backends(family, 1, 21))
		ranged := forward(family, 2, gateway.TCP, 20, 30, backends(family, 1, 20))
		nowhere := forward(family, 3, gateway.TCP, 21, 21, nil)
		return gateway.State{
			Forwards: gatewaytest.Sort([]*gateway.Forward{ftp, ranged, nowhere, forward(family, 1, gateway.UDP, 21, 21, backends(family, 1, 21)), forward(family, 1, gateway.UDP, 69, 69, backends(family, 1, 69))}),
			Helpers:  []gateway.Helper{{Name: "ftp", Protocol: gateway.TCP, Port: 21}, {Name: "tftp", Protocol: gateway.UDP, Port: 69}},
		}
	}},
	{"choices", func(family gateway.Family) gateway.State {
		client := forward(family, 1, gateway.TCP, 443, 443, backends(family, 3, 8443))
		client.Affinity, client.Draining = 3*time.Hour, backends(family, 9, 8443)[8:]
		shifted := forward(family, 1, gateway.UDP, 5000, 5099, backends(family, 2, 6000))
		shifted.Affinity, shifted.Shift, shifted.Masquerade = 10*time.Minute, true, false
		single := forward(family, 1, gateway.UDP, 53, 53, backends(family, 1, 53))
		single.Affinity = time.Hour
		return gateway.State{Uplinks: uplinks, ClampMSS: true, MasqueradePorts: gateway.PortRange{First: 1024, Last: 65535}, Forwards: gatewaytest.Sort([]*gateway.Forward{
			client, shifted, single, forward(family, 1, gateway.TCP, 80, 80, backends(family, 40, 8080)),
		})}
	}},
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
	{"egress", func(family gateway.Family) gateway.State {
		state := gateway.State{Uplinks: uplinks}
		for n := range 2 {
			e := gateway.Egress{Address: external(family, 1+n), Uplink: 1 + n, Owner: "default/echo"}
			for i := range 6 {
				e.Sources = append(e.Sources, inside(family, 1+n+2*i))
			}
			state.Egresses = append(state.Egresses, e)
		}
		return state
	}},
	{"tree", func(family gateway.Family) gateway.State {
		var forwards []*gateway.Forward
		for i := range 40 {
			forwards = append(forwards, forward(family, 1, gateway.TCP, uint16(8000+i), uint16(8000+i), backends(family, 1, 80)))
		}
		spanning := forward(family, 1, gateway.TCP, 1024, 7999, backends(family, 2, 80))
		spanning.Masquerade = false
		forwards = append(forwards, spanning)
		for i := range 12 {
			forwards = append(forwards, forward(family, 10+i*i, gateway.TCP, 443, 443, backends(family, 1, 80)))
		}
		return gateway.State{Uplinks: uplinks[:1], Forwards: gatewaytest.Sort(forwards)}
	}},
}

func TestGolden(t *testing.T) {
	for _, tc := range scenarios {
		for _, family := range families {
			name := fmt.Sprintf("%s-ipv%d.txt", tc.name, family)
			t.Run(name, func(t *testing.T) {
				got := ruleset.Render(Build(tc.state(family), family, options))
				file := filepath.Join("testdata", name)
				if *update {
					if err := os.WriteFile(file, got, 0o600); err != nil {
						t.Fatal(err)
					}
				}
				want, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(string(want), string(got)); diff != "" {
					t.Errorf("run with -update if this is intended (-want +got):\n%s", diff)
				}
			})
		}
	}
}

func TestFamiliesAreApart(t *testing.T) {
	for _, tc := range scenarios {
		states := map[gateway.Family]gateway.State{gateway.IPv4: tc.state(gateway.IPv4), gateway.IPv6: tc.state(gateway.IPv6)}
		both := states[gateway.IPv4]
		both.Forwards = slices.Concat(both.Forwards, states[gateway.IPv6].Forwards)
		both.Egresses = slices.Concat(both.Egresses, states[gateway.IPv6].Egresses)
		for _, family := range families {
			t.Run(fmt.Sprintf("%s/IPv%d", tc.name, family), func(t *testing.T) {
				both.Sync = states[family].Sync // a pair has one
				want := string(ruleset.Render(Build(states[family], family, options)))
				if diff := cmp.Diff(want, string(ruleset.Render(Build(both, family, options)))); diff != "" {
					t.Errorf("the other family's forwards change the rules:\n%s", diff)
				}
			})
		}
	}
}

// fixed lists the chains that exist even if nothing jumps to them.
var fixed = []string{boundaryChain, markDropChain, markRejectChain, keepSourceChain}

// check fails if a chain exists twice or its name is too long, if a rule jumps to a missing chain, or if nothing jumps to a
// chain.
func check(t *testing.T, rs ruleset.Ruleset) {
	t.Helper()
	for _, table := range rs.Tables {
		names, reached := map[string]bool{}, map[string]bool{}
		for _, c := range table.Chains {
			if names[c.Name] || len(c.Name) > 28 {
				t.Errorf("chain %s of %s exists twice, or its name is too long", c.Name, table.Name)
			}
			names[c.Name] = true
			for _, r := range c.Rules {
				reached[r.Target.Chain] = true
			}
		}
		for target := range reached {
			if target != "" && !names[target] {
				t.Errorf("a rule of %s jumps to %s, which does not exist", table.Name, target)
			}
		}
		for name := range names {
			if strings.HasPrefix(name, options.Ownership.ChainPrefix) && !reached[name] && !slices.Contains(fixed, strings.TrimPrefix(name, options.Ownership.ChainPrefix)) {
				t.Errorf("no rule of %s jumps to %s", table.Name, name)
			}
		}
	}
}

func TestEveryJumpHasATarget(t *testing.T) {
	for _, tc := range scenarios {
		for _, family := range families {
			t.Run(fmt.Sprintf("%s/IPv%d", tc.name, family), func(t *testing.T) {
				check(t, Build(tc.state(family), family, options))
			})
		}
	}
}

func TestNamesFit(t *testing.T) {
	opts := options
	opts.Ownership.ChainPrefix = "TWELVECHARS-"
	for _, family := range families {
		t.Run(fmt.Sprintf("IPv%d", family), func(t *testing.T) {
			state := randomState(rand.New(rand.NewPCG(3, 3)), family)
			state.Forwards = append(state.Forwards, forward(family, 99, gateway.SCTP, 65535, 65535, backends(family, 30, 65535)))
			longest := 0
			for _, table := range Build(state, family, opts).Tables {
				for _, c := range table.Chains {
					longest = max(longest, len(c.Name))
				}
			}
			if longest < 26 || longest > 28 {
				t.Errorf("the longest name has %d characters, the kernel allows 28", longest)
			}
		})
	}
}
