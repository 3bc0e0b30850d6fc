// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/gateway/gatewaytest"
	"github.com/smartnat/smartnat/pkg/iptables/ruleset"
)

// lists returns the client lists that the rules name.
func lists(rs ruleset.Ruleset) []string {
	names := map[string]bool{}
	for _, table := range rs.Tables {
		for _, c := range table.Chains {
			for _, r := range c.Rules {
				if r.Recent.Name != "" {
					names[r.Recent.Name] = true
				}
			}
		}
	}
	return slices.Sorted(maps.Keys(names))
}

// stickyForward returns a Forward with an affinity of three hours.
func stickyForward(owner string, address int, protocol gateway.Protocol, first, last uint16, b []gateway.Backend) *gateway.Forward {
	f := forward(gateway.IPv4, address, protocol, first, last, b)
	f.Owner, f.Affinity, f.Shift = owner, 3*time.Hour, first != last
	return f
}

// TestClientsAreKeptByService expects that a client reaches the same endpoint by every port, protocol, address and Mapping of a
// Service.
func TestClientsAreKeptByService(t *testing.T) {
	pods := func(port uint16) []gateway.Backend { return backends(gateway.IPv4, 3, port) }
	forwards := gatewaytest.Sort([]*gateway.Forward{
		stickyForward("default/signals", 1, gateway.TCP, 21, 21, pods(2121)),
		stickyForward("default/signals", 1, gateway.TCP, 5201, 5201, pods(5201)),
		stickyForward("default/signals", 1, gateway.UDP, 5201, 5201, pods(5201)),
		stickyForward("default/media", 1, gateway.UDP, 20000, 20999, pods(30000)),
		stickyForward("default/media", 2, gateway.UDP, 20000, 20999, pods(30000)),
	})
	other := stickyForward("default/other", 3, gateway.TCP, 80, 80, pods(80))
	other.Service = "default/other"
	state := gateway.State{Uplinks: uplinks, Forwards: append(slices.Clone(forwards), other)}
	tracer := ruleset.NewTracer(Build(state, gateway.IPv4, options))
	client := source(gateway.IPv4, 0).Addr()
	for n := range 3 {
		p := firstPacket(gateway.IPv4, client, forwards[0].Address, gateway.TCP, 21)
		remembered := tracer.Choosing(pick(n)).Trace(p).Remembered
		returning := tracer.Remembering(func(list string, _ uint32) bool { return slices.Contains(remembered, list) })
		for _, f := range forwards {
			p := firstPacket(gateway.IPv4, client, f.Address, f.Protocol, f.Ports.Last)
			if got := returning.Trace(p).Packet.Destination.Addr(); got != pods(0)[n].Address {
				t.Errorf("the client of %s reaches %s through %s", pods(0)[n].Address, got, f.Frontend)
			}
		}
		p = firstPacket(gateway.IPv4, client, other.Address, gateway.TCP, 80)
		if got := returning.Choosing(pick((n + 1) % 3)).Trace(p).Packet.Destination.Addr(); got != pods(0)[(n+1)%3].Address {
			t.Errorf("the client of %s reaches %s through another Service", pods(0)[n].Address, got)
		}
	}
}

// TestListsOfClients counts the lists, because the kernel searches all lists for each rule that names one.
func TestListsOfClients(t *testing.T) {
	var wide, apart []*gateway.Forward
	for address := range 3 {
		for port := range uint16(256) {
			wide = append(wide, stickyForward("default/echo", 1+address, gateway.TCP, 1000+port, 1000+port, backends(gateway.IPv4, 40, 1000+port)))
			apart = append(apart, stickyForward("default/echo", 1+address, gateway.TCP, 1000+2*port, 1000+2*port, backends(gateway.IPv4, 40, 80)))
		}
	}
	on := func(n int, ports ...uint16) (list []gateway.Backend) {
		for _, port := range ports {
			list = append(list, gateway.Backend{Address: inside(gateway.IPv4, n), Port: port})
		}
		return list
	}
	for _, tc := range []struct {
		name         string
		forwards     []*gateway.Forward
		lists, rules int
	}{
		{"256 ports in a row of 3 addresses, 40 endpoints", wide, 40, 281},
		{"256 ports apart of 3 addresses, 40 endpoints", apart, 40, 63824},
		{"endpoints of one address", []*gateway.Forward{
			stickyForward("default/echo", 1, gateway.TCP, 80, 80, slices.Concat(on(1, 8080, 8081), on(2, 8080))),
		}, 3, 34},
	} {
		t.Run(tc.name, func(t *testing.T) {
			rs := Build(gateway.State{Forwards: tc.forwards}, gateway.IPv4, options)
			got := []int{len(lists(rs)), ruleset.Diff(ruleset.Ruleset{}, rs, options.Ownership.ChainPrefix).Rules()}
			if diff := cmp.Diff([]int{tc.lists, tc.rules}, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestListNames checks names that must survive an upgrade, because a restart relies on them.
func TestListNames(t *testing.T) {
	f := stickyForward("default/echo", 1, gateway.TCP, 80, 80, backends(gateway.IPv4, 2, 8080))
	want := []string{"SMARTNAT-MCUJOUQUNJ-10.244.0.1", "SMARTNAT-MCUJOUQUNJ-10.244.0.2"}
	if diff := cmp.Diff(want, lists(Build(gateway.State{Forwards: []*gateway.Forward{f}}, gateway.IPv4, options))); diff != "" {
		t.Error(diff)
	}
	f.Backends = append(f.Backends[:1:1], gateway.Backend{Address: netip.MustParseAddr("10.244.0.1"), Port: 8081})
	want = []string{"SMARTNAT-MCUJOUQUNJ-10.244.0.1-8080", "SMARTNAT-MCUJOUQUNJ-10.244.0.1-8081"}
	if diff := cmp.Diff(want, lists(Build(gateway.State{Forwards: []*gateway.Forward{f}}, gateway.IPv4, options))); diff != "" {
		t.Error(diff)
	}
}
