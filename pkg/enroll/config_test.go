// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package enroll_test

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/enroll"
	"github.com/smartnat/smartnat/pkg/gateway"
)

var files = enroll.Files{Token: "/etc/smartnat/token", Authorities: "/etc/smartnat/ca.crt"}

// hostOf reads a host from lines such as `ip addr` and `ip route` have: LINK ADDRESS/BITS..., NETWORK [via ADDRESS] dev LINK, default
// [via ADDRESS] dev LINK.
func hostOf(t *testing.T, lines string) gateway.Host {
	t.Helper()
	var h gateway.Host
	for line := range strings.Lines(strings.TrimSpace(lines)) {
		words := strings.Fields(line)
		link := words[len(words)-1]
		var hop netip.Addr
		if len(words) == 5 {
			hop = netip.MustParseAddr(words[2])
		}
		switch {
		case words[0] == "default" || words[0] == "default6":
			h.DefaultRoutes = append(h.DefaultRoutes, gateway.DefaultRoute{Link: link, Gateway: hop, IPv6: words[0] == "default6"})
		case len(words) >= 3 && words[len(words)-2] == "dev":
			h.Routes = append(h.Routes, gateway.Route{Destination: netip.MustParsePrefix(words[0]), Link: link, Gateway: hop})
		default:
			l := gateway.Link{Name: words[0], Up: true}
			for _, p := range prefixes(words[1:]...) {
				l.Addresses = append(l.Addresses, p)
				if !p.IsSingleIP() {
					h.Routes = append(h.Routes, gateway.Route{Destination: p.Masked(), Link: l.Name})
				}
			}
			h.Links = append(h.Links, l)
		}
	}
	return h
}

const (
	lo         = "lo 127.0.0.1/8\n"
	oneCard    = lo + "ens3 203.0.113.7/24 10.10.0.2/24\ndefault via 203.0.113.1 dev ens3"
	twoCards   = lo + "eth0 10.10.0.2/24\neth1 198.51.100.10/24\ndefault via 198.51.100.1 dev eth1"
	source     = "source:\n  relay:\n    servers: [\"https://10.10.0.11:30443\", \"https://[fd00:10::11]:30443\"]\n    serverName: \"smartnat-relay.smartnat.svc\"\n    caFile: \"/etc/smartnat/ca.crt\"\n    tokenFile: \"/etc/smartnat/token\"\n"
	toServices = `serviceRoutes: - {destination: "10.96.0.0/16", via: ["10.10.0.11", "10.10.0.12"]}`
)

// keys returns the keys of a config after the source on one line, without comments and blank lines.
func keys(text string) string {
	_, text, _ = strings.Cut(text, source)
	var kept []string
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" && (!strings.HasPrefix(line, "#") || strings.HasPrefix(line, "#-")) {
			kept = append(kept, line)
		}
	}
	return strings.Join(kept, " ")
}

func TestConfigOfAHost(t *testing.T) {
	for _, test := range []struct {
		name, host string
		change     func(*enroll.Bundle)
		uplinks    []string
		want       string
		notes      []string
	}{
		{
			name: "one card, the node is its neighbour", host: oneCard,
			want:  `uplinks: - {interface: "ens3"} insideNetworks: ["10.244.1.0/24", "10.244.2.0/24"] ` + toServices + podRoutes,
			notes: []string{"nodes are behind an uplink: insideNetworks lists the pods of today's nodes; add those of new ones, or write the range that contains them"},
		},
		{
			name: "one card, the nodes are elsewhere", host: lo + "ens3 203.0.113.7/24\ndefault via 203.0.113.1 dev ens3",
			want: `uplinks: - {interface: "ens3"} insideNetworks: ["10.244.1.0/24", "10.244.2.0/24"]`,
			notes: []string{
				"no node is a neighbour of this host, so the ClusterIPs 10.96.0.0/16 need a route: ask the network for one, or use mode endpoints with routes to the pods",
				"nodes are behind an uplink: insideNetworks lists the pods of today's nodes; add those of new ones, or write the range that contains them",
			},
		},
		{
			name: "one card with a private address, as in a cloud", host: lo + "ens5 10.10.0.2/24\ndefault via 10.10.0.1 dev ens5",
			want:  `uplinks: - {interface: "ens5"} insideNetworks: ["10.244.1.0/24", "10.244.2.0/24"] ` + toServices + podRoutes,
			notes: []string{"nodes are behind an uplink: insideNetworks lists the pods of today's nodes; add those of new ones, or write the range that contains them"},
		},
		{name: "two cards", host: twoCards, want: `uplinks: - {interface: "eth1"} ` + toServices + podRoutes},
		{
			name: "two cards and routes to the pods", host: twoCards + "\n10.244.0.0/16 via 10.10.0.11 dev eth0",
			want: `uplinks: - {interface: "eth1"} ` + toServices,
		},
		{
			name: "two cards, both with a default route", host: twoCards + "\ndefault via 10.10.0.1 dev eth0",
			want:  `uplinks: - {interface: "eth1"} ` + toServices + podRoutes,
			notes: []string{"eth0 has a default route, but leads to nodes, so it is no uplink: name all uplinks by --uplink if it is one"},
		},
		{
			name: "a second provider without a default route", host: twoCards + "\neth2 203.0.113.10/24",
			want:  `uplinks: - {interface: "eth1"} ` + toServices + podRoutes,
			notes: []string{"eth2 holds 203.0.113.10 but has no default route, so it is no uplink: if it is one, name all uplinks by --uplink, such as --uplink eth2=GATEWAY"},
		},
		{
			name: "both providers named", host: twoCards + "\neth2 203.0.113.10/24", uplinks: []string{"eth1", "eth2=203.0.113.1"},
			want: `uplinks: - {interface: "eth1"} - {interface: "eth2", gateway: "203.0.113.1"} ` + toServices + podRoutes,
		},
		{
			name: "IPv6", host: lo + "eth0 10.10.0.2/24 fd00:10::2/64\neth1 2001:db8:1::10/64\ndefault6 via 2001:db8:1::1 dev eth1",
			change: func(b *enroll.Bundle) {
				b.Cluster.ServiceNetworks = prefixes("10.96.0.0/16", "fd00:96::/108")
				b.Cluster.Nodes = []enroll.Node{{Addresses: addresses("10.10.0.11", "fd00:10::11"), PodNetworks: prefixes("fd00:244:1::/64")}}
			},
			want: `uplinks: - {interface: "eth1"} serviceRoutes: - {destination: "10.96.0.0/16", via: ["10.10.0.11"]} - {destination: "fd00:96::/108", via: ["fd00:10::11"]} ` +
				`#- {destination: "fd00:244:1::/64", via: ["fd00:10::11"]}`,
		},
		{
			name: "PPPoE to the outside, WireGuard to the nodes",
			host: lo + "eth0\nppp0 198.51.100.10/32\nwg0 10.99.0.2/32\n198.51.100.1/32 dev ppp0\ndefault dev ppp0\n10.10.0.0/24 dev wg0",
			want: `uplinks: - {interface: "ppp0"} ` + toServices + podRoutes,
		},
		{
			name: "nodes behind a router, with a route to the ClusterIPs",
			host: lo + "eth0 10.20.0.2/24\neth1 198.51.100.10/24\ndefault via 198.51.100.1 dev eth1\n10.0.0.0/8 via 10.20.0.1 dev eth0",
			want: `uplinks: - {interface: "eth1"}`,
		},
		{
			name: "more nodes than a route needs", host: twoCards,
			change: func(b *enroll.Bundle) {
				b.Cluster.Nodes = []enroll.Node{{Addresses: addresses("10.10.0.28", "10.10.0.27", "10.10.0.26", "10.10.0.25", "10.10.0.24", "10.10.0.23", "10.10.0.22", "10.10.0.21", "10.10.0.20", "10.10.0.20")}}
			},
			want: `uplinks: - {interface: "eth1"} serviceRoutes: - {destination: "10.96.0.0/16", ` +
				`via: ["10.10.0.20", "10.10.0.21", "10.10.0.22", "10.10.0.23", "10.10.0.24", "10.10.0.25", "10.10.0.26", "10.10.0.27"]}`,
		},
		{
			name: "a cluster that does not show its ranges", host: twoCards,
			change: func(b *enroll.Bundle) { b.Cluster = enroll.Cluster{} },
			want:   `uplinks: - {interface: "eth1"}`,
			notes:  []string{"the bundle names no range of ClusterIPs: add serviceRoutes for mode service, or use mode endpoints"},
		},
		{
			name: "a node", host: oneCard, change: func(b *enroll.Bundle) { b.Node = "worker-1.example.com" },
			want: `uplinks: - {interface: "ens3"}`,
		},
		{
			// A name of a link may be a pattern in a config, or the rest of a key.
			name: "links with names like patterns", host: twoCards + "\neth* 203.0.113.10/24\ndefault via 203.0.113.1 dev eth*\n\"},x:{\" 203.0.113.11/24\ndefault via 203.0.113.1 dev \"},x:{\"",
			want: `uplinks: - {interface: "eth1"} ` + toServices + podRoutes,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := bundle(t)
			if test.change != nil {
				test.change(b)
			}
			var uplinks []enroll.Uplink
			for _, text := range test.uplinks {
				u, err := enroll.ParseUplink(text)
				if err != nil {
					t.Fatal(err)
				}
				uplinks = append(uplinks, u)
			}
			text, notes, err := enroll.Config(b, hostOf(t, test.host), files, uplinks)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, keys(string(text))); diff != "" {
				t.Errorf("-want +got\n%s\n%s", diff, text)
			}
			if diff := cmp.Diff(test.notes, notes); diff != "" {
				t.Errorf("notes (-want +got)\n%s", diff)
			}
			// The config is valid, and still is if the operator takes the suggested routes.
			for _, variant := range []string{string(text), strings.ReplaceAll(string(text), "\n#- {", "\n- {")} {
				path := filepath.Join(t.TempDir(), "smartnat.yaml")
				if err := os.WriteFile(path, []byte(variant), 0o600); err != nil {
					t.Fatal(err)
				}
				cfg, err := config.Load(path)
				if err != nil {
					t.Fatalf("%v\n%s", err, variant)
				}
				node := cfg.Instance
				if b.Node != "" {
					node = b.Node
				}
				if cfg.Instance != "gateway-1" || cfg.Node != node || cfg.Source.Relay.TokenFile != files.Token {
					t.Errorf("instance %q, node %q, relay %+v", cfg.Instance, cfg.Node, cfg.Source.Relay)
				}
			}
		})
	}
}

const podRoutes = ` #- {destination: "10.244.1.0/24", via: ["10.10.0.11"]} #- {destination: "10.244.2.0/24", via: ["10.10.0.12"]}`

func TestHostsThatNeedAnswers(t *testing.T) {
	for _, test := range []struct{ name, host, uplink, want string }{
		{"no default route", lo + "eth0 10.10.0.2/24\neth1 198.51.100.10/24", "",
			"no link of this host has a default route: name the uplinks, as in --uplink eth1=198.51.100.1 (links: eth0, eth1)"},
		{"a link that does not exist", twoCards, "eth9", "this host has no link eth9: it has eth0, eth1"},
		{"a link without a next hop", twoCards, "eth0", "the link eth0 has no default route: name its gateway, as in --uplink eth0=198.51.100.1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var uplinks []enroll.Uplink
			if test.uplink != "" {
				uplinks = []enroll.Uplink{{Link: test.uplink}}
			}
			if _, _, err := enroll.Config(bundle(t), hostOf(t, test.host), files, uplinks); err == nil || err.Error() != test.want {
				t.Errorf("got  %v\nwant %s", err, test.want)
			}
		})
	}
	for _, text := range []string{"", "=", "eth1=", "eth1=198.51.100", "eth*", "/eth.*/", "eth1=fe80::1%eth1", "a b", `x"`, "a-name-that-is-too-long"} {
		if _, err := enroll.ParseUplink(text); err == nil || !strings.Contains(err.Error(), "want NAME or NAME=GATEWAY") {
			t.Errorf("%q: %v", text, err)
		}
	}
}
