// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package calc

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/finding"
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/objects"
)

// TestBoundaryFollowsLinks checks that the boundary depends on where packets come in, not on the names in the config.
func TestBoundaryFollowsLinks(t *testing.T) {
	prefix := netip.MustParsePrefix
	eth0 := gateway.Link{Name: "eth0", Up: true, Addresses: []netip.Prefix{prefix("10.10.0.2/24")}}
	eth1 := gateway.Link{Name: "eth1", Up: true, Addresses: []netip.Prefix{prefix("198.51.100.10/24")}}
	port := func(l gateway.Link, master string) gateway.Link { l.Master, l.Addresses = master, nil; return l }
	over := func(name, kind, parent string) gateway.Link {
		return gateway.Link{Name: name, Kind: kind, Parent: parent, Up: true}
	}
	route := gateway.ServiceRoute{Destination: prefix("10.96.0.0/16"), Via: []netip.Addr{netip.MustParseAddr("10.10.0.11")}}
	byEth1 := []gateway.DefaultRoute{{Link: "eth1", Gateway: netip.MustParseAddr("198.51.100.1")}}
	for _, tc := range []struct {
		name    string
		uplinks []string
		routes  []gateway.ServiceRoute
		host    gateway.Host
		// up has the names of the State's Uplinks.
		up, outside, inside []string
		reasons             []string
	}{
		{name: "two links", uplinks: []string{"eth1"}, host: gateway.Host{Links: []gateway.Link{eth0, eth1}, DefaultRoutes: byEth1}, up: []string{"eth1"}},
		{name: "two links with service routes", uplinks: []string{"eth1"}, routes: []gateway.ServiceRoute{route},
			host: gateway.Host{Links: []gateway.Link{eth0, eth1}, DefaultRoutes: byEth1}, up: []string{"eth1"}, inside: []string{"eth0"}},
		{name: "no uplink in the config", host: gateway.Host{Links: []gateway.Link{eth0, eth1}, DefaultRoutes: byEth1},
			outside: []string{"eth1"}, reasons: []string{finding.ReasonLinkOutside}},
		{name: "one link, and nothing in the config", host: gateway.Host{Links: []gateway.Link{eth1}, DefaultRoutes: byEth1},
			outside: []string{"eth1"}, reasons: []string{finding.ReasonLinkOutside}},
		{name: "a port of a bridge", uplinks: []string{"eth1"},
			host: gateway.Host{Links: []gateway.Link{over("br-wan", "bridge", ""), eth0, port(eth1, "br-wan")}},
			up:   []string{"br-wan"}, outside: []string{"eth1"}, reasons: []string{finding.ReasonLinkIsPort}},
		{name: "a port of a bond that is a port of a bridge", uplinks: []string{"eth1"},
			host: gateway.Host{Links: []gateway.Link{port(over("bond0", "bond", ""), "br-wan"), over("br-wan", "bridge", ""), port(eth1, "bond0")}},
			up:   []string{"br-wan"}, outside: []string{"eth1"}, reasons: []string{finding.ReasonLinkIsPort}},
		{name: "both are named", uplinks: []string{"eth1", "br-wan"},
			host: gateway.Host{Links: []gateway.Link{over("br-wan", "bridge", ""), port(eth1, "br-wan")}},
			up:   []string{"br-wan"}, outside: []string{"eth1"}, reasons: []string{finding.ReasonLinkIsPort}},
		{name: "a link of a VRF", uplinks: []string{"eth1"},
			host: gateway.Host{Links: []gateway.Link{port(eth1, "red"), over("red", "vrf", "")}},
			up:   []string{"eth1"}, outside: []string{"red"}, reasons: []string{finding.ReasonLinkOutside}},
		{name: "links stacked on an uplink", uplinks: []string{"eth1"},
			host: gateway.Host{Links: []gateway.Link{eth1, over("eth1.5", "vlan", "eth1"), over("mv0", "macvlan", "eth1.5"), over("eth0.5", "vlan", "eth0"), eth0}},
			up:   []string{"eth1"}, outside: []string{"eth1.5", "mv0"}, reasons: []string{finding.ReasonLinkOutside, finding.ReasonLinkOutside}},
		{name: "the cluster is on a VLAN of the uplink's card", uplinks: []string{"eth1"}, routes: []gateway.ServiceRoute{route},
			host: gateway.Host{Links: []gateway.Link{eth1, {Name: "eth1.5", Kind: "vlan", Parent: "eth1", Addresses: eth0.Addresses}}},
			up:   []string{"eth1"}, inside: []string{"eth1.5"}},
		{name: "containers on this host", uplinks: []string{"eth1"}, host: gateway.Host{Links: []gateway.Link{
			eth1, over("docker0", "bridge", ""), {Name: "veth1", Kind: "veth", Master: "docker0"}, over("br-lan", "bridge", ""), port(eth0, "br-lan"),
		}}, up: []string{"eth1"}, inside: []string{"docker0"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cfg := config.Default()
			cfg.ServiceRoutes = tc.routes
			for _, u := range tc.uplinks {
				cfg.Uplinks = append(cfg.Uplinks, config.Uplink{Interface: u, Gateways: []netip.Addr{netip.MustParseAddr("198.51.100.1")}})
			}
			tc.host.ForwardingOwned = gateway.Families{IPv4: true}
			state, findings := Calculate(objects.Snapshot{}, tc.host, cfg)
			var up, reasons []string
			for _, u := range state.Uplinks {
				up = append(up, u.Link)
			}
			for _, f := range findings {
				reasons = append(reasons, f.Reason)
			}
			got := [][]string{up, state.Outside, state.InsideLinks, reasons}
			if diff := cmp.Diff([][]string{tc.up, tc.outside, tc.inside, tc.reasons}, got); diff != "" {
				t.Errorf("uplinks, outside, inside, findings (-want +got):\n%s\n%v", diff, findings)
			}
			if state.ForwardingOwned != tc.host.ForwardingOwned {
				t.Errorf("forwarding owned for %v, want %v", state.ForwardingOwned, tc.host.ForwardingOwned)
			}
		})
	}
}

// TestDroppingChains expects a finding with the command that helps, for the host and for Mappings whose pods leave by the gateway.
func TestDroppingChains(t *testing.T) {
	const docker = "iptables -I FORWARD -m connmark --mark 0x10/0x10 -j ACCEPT"
	prefix := netip.MustParsePrefix
	cfg := config.Default()
	cfg.Uplinks = []config.Uplink{{Interface: "eth1"}}
	host := gateway.Host{Links: []gateway.Link{
		{Name: "eth0", Up: true, Addresses: []netip.Prefix{prefix("10.10.0.2/24")}},
		{Name: "eth1", Up: true, Addresses: []netip.Prefix{prefix("198.51.100.10/24"), prefix("2001:db8:1::10/64")}},
	}}
	m := &v1alpha1.Mapping{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "echo"},
		Spec:       v1alpha1.MappingSpec{Addresses: []string{"198.51.100.10"}, ServiceName: "echo", Egress: true, Ports: []v1alpha1.MappingPort{{Port: 80}}},
	}
	type found struct {
		Mapping, Field string
		Has            bool
	}
	for _, tc := range []struct {
		name   string
		chains []gateway.BaseChain
		remedy string
		want   []found
	}{
		{name: "none"},
		{"Docker", []gateway.BaseChain{{Family: "ip", Table: "filter", Name: "FORWARD"}}, docker, []found{{"", "dataplane", true}, {"echo", "spec.egress", true}}},
		{"firewalld", []gateway.BaseChain{{Family: "ip", Table: "filter", Name: "FORWARD", EgressOnly: true}}, docker, []found{{"echo", "spec.egress", true}}},
		{"of the other family", []gateway.BaseChain{{Family: "ip6", Table: "filter", Name: "FORWARD"}}, "ip6tables -I FORWARD", []found{{"", "dataplane", true}}},
		{"legacy", []gateway.BaseChain{{Family: "ip", Table: "filter", Name: "FORWARD", Legacy: true}}, "iptables-legacy -t filter -I FORWARD -m connmark --mark 0x10/0x10 -j ACCEPT",
			[]found{{"", "dataplane", true}, {"echo", "spec.egress", true}}},
		{"of nft", []gateway.BaseChain{{Family: "inet", Table: "fw", Name: "f"}}, "nft insert rule inet fw f ct mark and 0x10 == 0x10 accept",
			[]found{{"", "dataplane", true}, {"echo", "spec.egress", true}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			host.Others.Chains.Dropping = tc.chains
			_, all := Calculate(objects.Snapshot{Mappings: []*v1alpha1.Mapping{m}}, host, cfg)
			var got []found
			for _, f := range all {
				if f.Reason != finding.ReasonForwardingDropped {
					continue
				}
				got = append(got, found{f.Name, f.Field, strings.Contains(f.Message, tc.remedy)})
				if f.Blocks() {
					t.Errorf("it blocks: %s", f)
				}
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("findings (-want +got):\n%s", diff)
			}
		})
	}
}

// TestSyncEndpoint expects the endpoint of a pair, and none without one.
func TestSyncEndpoint(t *testing.T) {
	cfg := config.Default()
	for _, want := range []gateway.SyncEndpoint{{}, {Address: netip.MustParseAddr("10.99.0.1"), Link: "eth3", Port: 3780}} {
		cfg.HA.SyncAddress, cfg.HA.SyncLink, cfg.HA.SyncPort = want.Address, want.Link, int(want.Port)
		if want.Link != "" {
			cfg.HA.Peer = want.Address.Next()
		}
		if state, _ := Calculate(objects.Snapshot{}, gateway.Host{}, cfg); state.Sync != want {
			t.Errorf("%+v, want %+v", state.Sync, want)
		}
	}
}
