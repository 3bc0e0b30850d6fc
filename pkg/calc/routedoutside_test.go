// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package calc

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/finding"
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/objects"
)

// TestRoutedOutside checks that the current route of the kernel decides: the longest destination, then the metric.
func TestRoutedOutside(t *testing.T) {
	prefix, addr := netip.MustParsePrefix, netip.MustParseAddr
	route := func(to, link string, metric int) gateway.Route {
		return gateway.Route{Destination: prefix(to), Link: link, Metric: metric}
	}
	inside := route("fd00:244::/32", "eth0", 1024)
	pods := route("fd00:244:1::/64", "eth0", 1024)
	byUplink := []gateway.DefaultRoute{{Link: "eth1", Gateway: addr("fe80::1"), IPv6: true}}
	listed := config.Default()
	listed.BackendNetworks = []netip.Prefix{prefix("fd00:244::/32")}
	serviceRoute := config.Default()
	serviceRoute.ServiceRoutes = []gateway.ServiceRoute{{Destination: prefix("fd00:244::/32"), Via: []netip.Addr{addr("fd00:10::11")}}}
	for _, tc := range []struct {
		name string
		cfg  config.Config
		// before are the former routes, routes the current ones.
		before, routes []gateway.Route
		defaults       []gateway.DefaultRoute
		link, by       string
	}{
		{name: "inside alone", routes: []gateway.Route{pods}, defaults: byUplink},
		{name: "advertised, with the better metric", routes: []gateway.Route{pods, route("fd00:244:1::/64", "eth1", 256)}, link: "eth1", by: "fd00:244:1::/64"},
		{name: "the metrics in the other order of links", routes: []gateway.Route{route("fd00:244:1::/64", "eth1", 256), pods}, link: "eth1", by: "fd00:244:1::/64"},
		{name: "with a worse metric", routes: []gateway.Route{pods, route("fd00:244:1::/64", "eth1", 2048)}},
		{name: "with the same metric, of which either may win", routes: []gateway.Route{pods, route("fd00:244:1::/64", "eth1", 1024)}},
		{name: "one of two ways inside is better", routes: []gateway.Route{pods, route("fd00:244:1::/64", "eth0", 20), route("fd00:244:1::/64", "eth1", 256)}},
		{name: "a longer one inside a listed network", cfg: listed, routes: []gateway.Route{inside, route("fd00:244:1::2/128", "eth1", 256)}, link: "eth1", by: "fd00:244:1::2/128"},
		{name: "a longer one inside a service route", cfg: serviceRoute, routes: []gateway.Route{inside, route("fd00:244:1::/64", "eth1", 256)}, link: "eth1", by: "fd00:244:1::/64"},
		{name: "a shorter one", routes: []gateway.Route{pods, route("fd00:244::/32", "eth1", 256)}},
		{name: "listed, and there is no other way", cfg: listed, routes: []gateway.Route{route("fd00:244::/32", "eth1", 256)}},
		{name: "listed, behind the default route", cfg: listed, defaults: byUplink},
		{name: "the way inside went", before: []gateway.Route{pods}, defaults: byUplink, link: "eth1", by: "::/0"},
		{name: "it went, and a wider one leads inside", before: []gateway.Route{pods, inside}, routes: []gateway.Route{inside}, defaults: byUplink},
		{name: "it went, and nothing leads anywhere", before: []gateway.Route{pods}},
		{name: "it went, and is listed", cfg: listed, before: []gateway.Route{pods}, defaults: byUplink, link: "eth1", by: "::/0"},
		{name: "it came back", before: nil, routes: []gateway.Route{pods}, defaults: byUplink},
	} {
		t.Run(tc.name, func(t *testing.T) {
			uplinks := []gateway.Uplink{{Link: "eth1", Number: 1}}
			before := newNetworks(gateway.Host{Routes: tc.before, DefaultRoutes: tc.defaults}, tc.cfg, uplinks, nil, nil, nil)
			n := newNetworks(gateway.Host{Routes: tc.routes, DefaultRoutes: tc.defaults}, tc.cfg, uplinks, nil, nil, before)
			link, by := n.outside(addr("fd00:244:1::2"))
			if tc.by == "" && link == "" {
				return
			}
			if link != tc.link || by.String() != tc.by {
				t.Errorf("by %q, route %s; want %q, %s", link, by, tc.link, tc.by)
			}
		})
	}
}

// TestRoutedOutsideBlocks checks that the Mapping is not ready, because connections do not get through.
func TestRoutedOutsideBlocks(t *testing.T) {
	if f := (finding.Finding{Name: "echo", Reason: finding.ReasonRoutedOutside}); !f.Blocks() {
		t.Error("RoutedOutside does not block")
	}
}

// TestOwnPrefixes checks that a link that may wait for an advertisement has no prefix of its own.
func TestOwnPrefixes(t *testing.T) {
	prefixes := func(texts ...string) (list []netip.Prefix) {
		for _, text := range texts {
			list = append(list, netip.MustParsePrefix(text))
		}
		return list
	}
	static := gateway.Link{Name: "eth1", Up: true, Addresses: prefixes("198.51.100.10/24", "2001:db8:1::10/64", "fe80::1/64")}
	inside := gateway.Link{Name: "eth0", Up: true, Addresses: prefixes("10.10.0.2/24", "fd00:10::2/64")}
	four := gateway.Link{Name: "eth1", Up: true, Addresses: prefixes("198.51.100.10/24", "fe80::1/64")}
	single := gateway.Link{Name: "eth1", Up: true, Addresses: prefixes("2001:db8:1::10/128")}
	auto := static
	auto.Autoconfigured = true
	uplinks := config.Default()
	uplinks.Uplinks = []config.Uplink{{Interface: "eth1"}}
	byEth1 := []gateway.DefaultRoute{{Link: "eth1", Gateway: netip.MustParseAddr("198.51.100.1")}}
	for _, tc := range []struct {
		name  string
		cfg   config.Config
		links []gateway.Link // of eth1, in sequence
		want  []string
	}{
		{"static", uplinks, []gateway.Link{static}, []string{"eth1"}},
		{"made from an advertisement too", uplinks, []gateway.Link{auto}, nil},
		{"made from an advertisement before it flapped", uplinks, []gateway.Link{auto, static}, nil},
		{"no IPv6 address yet", uplinks, []gateway.Link{four}, nil},
		{"an address without a network, by DHCPv6", uplinks, []gateway.Link{single}, nil},
		{"no uplink in the config", config.Default(), []gateway.Link{static}, []string{"eth1"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			calculator := NewCalculator(tc.cfg)
			var state gateway.State
			for _, link := range tc.links {
				state, _ = calculator.Calculate(objects.Snapshot{}, gateway.Host{Links: []gateway.Link{inside, link}, DefaultRoutes: byEth1})
			}
			if !slices.Equal(state.OwnPrefixes, tc.want) {
				t.Errorf("%q, want %q", state.OwnPrefixes, tc.want)
			}
		})
	}
}
