// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package check

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/gateway/gatewaytest"
	"github.com/smartnat/smartnat/pkg/ha"
)

func pairConfig() config.Config {
	cfg := config.Default()
	cfg.HA.SyncLink, cfg.HA.SyncAddress, cfg.HA.Peer = "eth3", netip.MustParseAddr("10.99.0.1"), netip.MustParseAddr("10.99.0.2")
	cfg.HA.Links = []config.HALink{{Interface: "eth1", VirtualAddresses: gatewaytest.Addrs("198.51.100.20", "2001:db8:1::20"), Addresses: gatewaytest.Addrs("198.51.100.11", "2001:db8:1::11"),
		Peers: gatewaytest.Addrs("198.51.100.12", "2001:db8:1::12")}}
	return cfg
}

func pairHost() gateway.Host {
	return gateway.Host{Links: []gateway.Link{
		// A virtual address that the host holds makes no network of its own.
		{Name: "eth1", Up: true, Addresses: gatewaytest.Prefixes("198.51.100.11/24", "2001:db8:1::11/64", "fe80::1/64", "198.51.100.20/32")},
		{Name: "eth3", Up: true, Addresses: gatewaytest.Prefixes("10.99.0.1/30")},
	}}
}

func TestPairHost(t *testing.T) {
	for _, test := range []struct {
		name    string
		change  func(cfg *config.Config, host *gateway.Host)
		missing []string
		want    []string
	}{
		{"right", func(*config.Config, *gateway.Host) {}, nil, []string{"ok      ha: 2 virtual addresses, peer 10.99.0.2"}},
		{"no pair", func(cfg *config.Config, _ *gateway.Host) { *cfg = config.Default() }, []string{"keepalived"}, []string{"ok      ha: no pair is configured"}},
		{"no programs", func(*config.Config, *gateway.Host) {}, []string{"keepalived", "conntrackd"}, []string{
			"FAILED  ha: keepalived is not installed: this gateway works alone until it is, and 'smartnatd ha render --output /etc' wrote its config",
			"FAILED  ha: conntrackd is not installed: this gateway works alone until it is, and 'smartnatd ha render --output /etc' wrote its config",
		}},
		{"a virtual address of no network", func(cfg *config.Config, _ *gateway.Host) {
			cfg.HA.Links[0].VirtualAddresses[0] = netip.MustParseAddr("203.0.113.20")
		}, nil,
			[]string{"FAILED  ha: links: 203.0.113.20 is in no network of eth1 ([198.51.100.0/24 2001:db8:1::/64]): neighbours would not find it there"}},
		{"a peer elsewhere", func(cfg *config.Config, _ *gateway.Host) {
			cfg.HA.Links[0].Peers[0] = netip.MustParseAddr("203.0.113.12")
		}, nil,
			[]string{"FAILED  ha: links: 203.0.113.12 is in no network of eth1 ([198.51.100.0/24 2001:db8:1::/64]): neighbours would not find it there"}},
		{"the config of the other box", func(_ *config.Config, host *gateway.Host) {
			host.Links[0].Addresses = gatewaytest.Prefixes("198.51.100.12/24", "2001:db8:1::12/64")
			host.Links[1].Addresses = gatewaytest.Prefixes("10.99.0.2/30")
		}, nil, []string{
			"FAILED  ha: syncAddress: eth3 does not have 10.99.0.1, which the config says is this host's own",
			"FAILED  ha: links: eth1 does not have 198.51.100.11, which the config says is this host's own",
			"FAILED  ha: links: eth1 does not have 2001:db8:1::11, which the config says is this host's own",
		}},
		{"a link that is away", func(_ *config.Config, host *gateway.Host) { host.Links = host.Links[:1] }, nil, []string{"FAILED  ha: syncAddress: there is no link eth3 on this host"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			cfg, host := pairConfig(), pairHost()
			test.change(&cfg, &host)
			expectPairLines(t, test.want, PairHost(cfg, host, test.missing))
		})
	}
}

func TestPair(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(s *ha.Status)
		want   []string
	}{
		{"right", func(*ha.Status) {}, []string{"ok      ha: primary here, backup on the peer, and nothing differs"}},
		{"alone", func(s *ha.Status) { s.Peer = nil }, []string{"WARN    ha: going on alone: the peer has not answered yet"}},
		{"lost", func(s *ha.Status) { s.PeerProblem = "connection refused" }, []string{"WARN    ha: going on alone: connection refused"}},
		{"different", func(s *ha.Status) { s.Differences = []string{"uplinks: x"} }, []string{"FAILED  ha: uplinks: x"}},
		{"both", func(s *ha.Status) { s.Peer.Role.Role = ha.Primary },
			[]string{"FAILED  ha: both boxes hold the virtual addresses: keepalived does not hear its peer; check links, addresses and peers, and that a firewall lets pass IP protocol 112"}},
		{"none", func(s *ha.Status) { s.Own.Role.Role = ha.Backup }, []string{"FAILED  ha: no box holds all virtual addresses: does keepalived run?"}},
		{"no conntrackd", func(s *ha.Status) { s.SyncProblem = "conntrackd is not installed" }, []string{"FAILED  ha: conntrackd is not installed"}},
		{"a hook", func(s *ha.Status) { s.Hook = &ha.HookResult{Role: ha.Primary, Attempts: 3, Problem: "exit status 1"} },
			[]string{`FAILED  ha: the hook for the role "primary" failed 3 times: exit status 1`}},
		{"a hook that works", func(s *ha.Status) { s.Hook = &ha.HookResult{Role: ha.Primary, Attempts: 1} }, []string{"ok      ha: primary here, backup on the peer, and nothing differs"}},
		{"a neighbour", func(s *ha.Status) { s.Own.Missed = gatewaytest.Addrs("198.51.100.1") }, []string{"WARN    ha: neighbour 198.51.100.1 does not answer"}},
		{"ill", func(s *ha.Status) { s.Own.Healthy, s.Peer.Healthy = false, false },
			[]string{"WARN    ha: not everything is in effect here: see 'smartnatd status'", "WARN    ha: not everything is in effect on the peer"}},
		{"stopped", func(s *ha.Status) { s.Own.Role.Role, s.Peer.Role.Role = ha.Stopped, ha.Primary }, []string{`WARN    ha: keepalived is in the state "stopped": this box cannot take over`}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := ha.Status{Own: ha.Facts{Healthy: true, Role: ha.Notified{Role: ha.Primary}}, Peer: &ha.Facts{Healthy: true, Role: ha.Notified{Role: ha.Backup}}}
			test.change(&s)
			expectPairLines(t, test.want, Pair(s))
		})
	}
}

func expectPairLines(t *testing.T, want []string, lines []Line) {
	t.Helper()
	var got []string
	for _, l := range lines {
		got = append(got, l.String())
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
