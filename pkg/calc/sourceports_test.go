// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package calc

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/smartnat/smartnat/pkg/gateway"
)

func used(backend string, inUse int) gateway.SourcePorts { return usedOf(backend, inUse, 1) }

func usedOf(backend string, inUse, addresses int) gateway.SourcePorts {
	return gateway.SourcePorts{Protocol: gateway.UDP, Backend: netip.MustParseAddrPort(backend), InUse: inUse, Addresses: addresses}
}

func TestShortOfSourcePorts(t *testing.T) {
	hundred := gateway.State{MasqueradePorts: gateway.PortRange{First: 2000, Last: 2099}}
	a, b := used("10.244.1.2:514", 0), used("10.244.2.2:514", 0)
	for _, tc := range []struct {
		name    string
		state   gateway.State
		counted []gateway.SourcePorts
		before  []gateway.SourcePorts
		want    []gateway.SourcePorts
	}{
		{"nothing", hundred, nil, nil, nil},
		{"79 of 100", hundred, []gateway.SourcePorts{used("10.244.1.2:514", 79)}, nil, nil},
		{"80 of 100", hundred, []gateway.SourcePorts{used("10.244.1.2:514", 80)}, nil, []gateway.SourcePorts{a}},
		{"all, sorted", hundred, []gateway.SourcePorts{used("10.244.2.2:514", 90), used("10.244.1.2:514", 100)}, nil, []gateway.SourcePorts{a, b}},
		{"still above 70", hundred, []gateway.SourcePorts{used("10.244.1.2:514", 70)}, []gateway.SourcePorts{a}, []gateway.SourcePorts{a}},
		{"enough again", hundred, []gateway.SourcePorts{used("10.244.1.2:514", 69)}, []gateway.SourcePorts{a}, nil},
		{"all ended", hundred, nil, []gateway.SourcePorts{a}, nil},
		{"239 of 3 times 100", hundred, []gateway.SourcePorts{usedOf("10.244.1.2:514", 239, 3)}, nil, nil},
		{"240 of 3 times 100", hundred, []gateway.SourcePorts{usedOf("10.244.1.2:514", 240, 3)}, nil, []gateway.SourcePorts{usedOf("10.244.1.2:514", 0, 3)}},
		{"another address, above 70", hundred, []gateway.SourcePorts{usedOf("10.244.1.2:514", 140, 2)}, []gateway.SourcePorts{a}, []gateway.SourcePorts{usedOf("10.244.1.2:514", 0, 2)}},
		{"another address is enough", hundred, []gateway.SourcePorts{usedOf("10.244.1.2:514", 80, 2)}, []gateway.SourcePorts{a}, nil},
		{"the kernel chooses", gateway.State{}, []gateway.SourcePorts{used("10.244.1.2:514", 51609), used("10.244.2.2:514", 51610)}, nil, []gateway.SourcePorts{b}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, Short(tc.state, tc.counted, tc.before), cmpopts.EquateComparable(netip.AddrPort{})); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestWhoLeadsToBackendsShortOfSourcePorts(t *testing.T) {
	forward := func(owner string, change func(*gateway.Forward)) *gateway.Forward {
		f := &gateway.Forward{
			Frontend: gateway.Frontend{Address: netip.MustParseAddr("198.51.100.10"), Protocol: gateway.UDP, Ports: gateway.Port(514)}, Owner: owner,
			Masquerade: true, Backends: []gateway.Backend{{Address: netip.MustParseAddr("10.244.1.2"), Port: 514}},
		}
		if change != nil {
			change(f)
		}
		return f
	}
	state := gateway.State{MasqueradePorts: gateway.PortRange{First: 2000, Last: 2099}, Forwards: []*gateway.Forward{
		forward("shop/one", nil),
		forward("shop/one", nil),
		forward("bank/range", func(f *gateway.Forward) {
			f.Ports, f.Shift = gateway.PortRange{First: 20000, Last: 20010}, true
			f.Backends[0].Port = 510
		}),
		forward("shop/below", func(f *gateway.Forward) { f.Backends[0].Port = 515 }),
		forward("shop/drains", func(f *gateway.Forward) { f.Draining, f.Backends = f.Backends, nil }),
		forward("shop/tcp", func(f *gateway.Forward) { f.Protocol = gateway.TCP }),
		forward("shop/seen", func(f *gateway.Forward) { f.Masquerade = false }),
		forward("shop/other", func(f *gateway.Forward) { f.Backends[0].Address = netip.MustParseAddr("10.244.9.9") }),
	}}
	got := ShortFindings(state, []gateway.SourcePorts{used("10.244.1.2:514", 0), used("10.244.7.7:514", 0), usedOf("10.244.9.9:514", 0, 3)})
	var names []string
	for _, f := range got {
		names = append(names, f.String())
		if f.Blocks() {
			t.Errorf("%s blocks, although connections are forwarded", f)
		}
	}
	said := func(owner, backend string, room int) string {
		return fmt.Sprintf("Mapping %s: spec.masquerade: source ports for masqueraded connections to %s/udp are running out: 80 %% of %d were in use, "+
			"and new connections are dropped at 100 %%; add endpoints (mode endpoints), add an address to masqueradeAddresses or widen masqueradePorts "+
			"in the gateway's config, or set masquerade: false (SourcePortsLow)", owner, backend, room)
	}
	if diff := cmp.Diff([]string{
		said("bank/range", "10.244.1.2:514", 100), said("shop/drains", "10.244.1.2:514", 100), said("shop/one", "10.244.1.2:514", 100),
		said("shop/other", "10.244.9.9:514", 300),
	}, names); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got := ShortFindings(state, nil); got != nil {
		t.Errorf("got %v without a short backend", got)
	}
}
