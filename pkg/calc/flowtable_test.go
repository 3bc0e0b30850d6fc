// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package calc

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/finding"
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/objects"
)

func TestFlowtable(t *testing.T) {
	prefix, addr := netip.MustParsePrefix, netip.MustParseAddr
	link := func(index int, name, address string) gateway.Link {
		l := gateway.Link{Name: name, Index: index, Up: true}
		if address != "" {
			l.Addresses = []netip.Prefix{prefix(address)}
		}
		return l
	}
	port := func(l gateway.Link, master string) gateway.Link { l.Master = master; return l }
	kind := func(l gateway.Link, kind string) gateway.Link { l.Kind = kind; return l }
	lo, eth0, eth1 := link(1, "lo", "127.0.0.1/8"), link(2, "eth0", "10.10.0.2/24"), link(3, "eth1", "198.51.100.10/24")
	viaIPv6 := []gateway.Route{{Destination: prefix("10.244.0.0/16"), Link: "eth0", Gateway: addr("fe80::1")}}
	both := gateway.Families{IPv4: true, IPv6: true}
	queuing := gateway.OtherRules{Chains: gateway.OtherChains{Queuing: []gateway.BaseChain{{Family: "ip", Table: "filter", Name: "FORWARD"}}}}
	many := []gateway.Link{link(9, "z", "")}
	for i := range 300 {
		many = append(many, link(10+i, fmt.Sprintf("a%d", i), "10.0.0.1/32"))
	}
	for _, tc := range []struct {
		name     string
		uplink   string
		host     gateway.Host
		off      bool
		families gateway.Families
		want     []gateway.FlowLink
		links    int
		why      string
	}{
		{name: "two links", uplink: "eth1", host: gateway.Host{Links: []gateway.Link{eth0, eth1, lo}}, families: both, want: []gateway.FlowLink{{Name: "eth0", Index: 2}, {Name: "eth1", Index: 3}}},
		{name: "a kernel without it", uplink: "eth1", host: gateway.Host{Links: []gateway.Link{eth0, eth1}}, off: true},
		{name: "a rule that queues packets", uplink: "eth1", host: gateway.Host{Links: []gateway.Link{eth0, eth1}, Others: queuing}, why: "off: chain FORWARD of table ip filter hands packets to a program (queue), which would miss those of established connections"},
		{name: "such a rule, and a kernel without it", uplink: "eth1", host: gateway.Host{Links: []gateway.Link{eth0, eth1}, Others: queuing}, off: true},
		{name: "no links", uplink: "eth1", host: gateway.Host{Links: []gateway.Link{lo}}},
		{name: "an uplink without an address", uplink: "ppp0", host: gateway.Host{Links: []gateway.Link{eth0, link(4, "ppp0", "")}}, families: both, want: []gateway.FlowLink{{Name: "eth0", Index: 2}, {Name: "ppp0", Index: 4}}},
		{name: "links of pods", uplink: "eth1", host: gateway.Host{Links: []gateway.Link{link(5, "cali1", ""), link(6, "cali2", "fe80::1/64"), eth1}}, families: both, want: []gateway.FlowLink{{Name: "eth1", Index: 3}}},
		{name: "a bridge and its port", uplink: "eth1", host: gateway.Host{Links: []gateway.Link{kind(link(7, "br0", "10.10.0.2/24"), "bridge"), port(eth0, "br0"), eth1}}, families: both, want: []gateway.FlowLink{{Name: "br0", Index: 7}, {Name: "eth1", Index: 3}}},
		{name: "a VRF and its link", uplink: "eth1", host: gateway.Host{Links: []gateway.Link{port(eth1, "red"), kind(link(8, "red", ""), "vrf")}}, families: both, want: []gateway.FlowLink{{Name: "eth1", Index: 3}}},
		{name: "an IPv4 route by IPv6", uplink: "eth1", host: gateway.Host{Links: []gateway.Link{eth1}, Routes: viaIPv6}, families: gateway.Families{IPv6: true}, want: []gateway.FlowLink{{Name: "eth1", Index: 3}}},
		{name: "an IPv4 default route by IPv6", uplink: "eth1", host: gateway.Host{Links: []gateway.Link{eth1}, DefaultRoutes: []gateway.DefaultRoute{{Link: "eth1", Gateway: addr("fe80::1")}}},
			families: gateway.Families{IPv6: true}, want: []gateway.FlowLink{{Name: "eth1", Index: 3}}},
		{name: "IPv6 routes", uplink: "eth1", host: gateway.Host{Links: []gateway.Link{eth1}, DefaultRoutes: []gateway.DefaultRoute{{Link: "eth1", Gateway: addr("fe80::1"), IPv6: true}},
			Routes: []gateway.Route{{Destination: prefix("fd00::/64"), Gateway: addr("fe80::1")}}}, families: both, want: []gateway.FlowLink{{Name: "eth1", Index: 3}}},
		{name: "more links than a flowtable has", uplink: "z", host: gateway.Host{Links: many}, families: both, links: maxFlowLinks},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cfg := config.Default()
			cfg.Uplinks = []config.Uplink{{Interface: tc.uplink}}
			tc.host.Flowtable = !tc.off
			state, findings := Calculate(objects.Snapshot{}, tc.host, cfg)
			why := ""
			for _, f := range findings {
				if f.Reason == finding.ReasonPacketsQueued {
					why = f.Message
				}
			}
			if diff := cmp.Diff(tc.why, why); diff != "" {
				t.Errorf("finding (-want +got):\n%s", diff)
			}
			if tc.links > 0 {
				if links := state.Flowtable.Links; len(links) != tc.links || links[len(links)-1].Name != tc.uplink {
					t.Errorf("%d links %v, want %d with the uplink", len(links), links, tc.links)
				}
				return
			}
			if diff := cmp.Diff(gateway.Flowtable{Families: tc.families, Links: tc.want}, state.Flowtable); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
