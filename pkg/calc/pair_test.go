// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package calc_test

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/smartnat/smartnat/pkg/calc"
	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/gateway"
)

// TestEgressOfAPair expects the same State on the box that holds a virtual address and on its peer.
func TestEgressOfAPair(t *testing.T) {
	virtual := netip.MustParseAddr("198.51.100.20")
	for name, test := range map[string]struct {
		link  string
		ahead bool
	}{"on an uplink": {"eth1", true}, "inside": {"eth0", false}, "on a link that is away": {"eth9", false}} {
		t.Run(name, func(t *testing.T) {
			snapshot, host, cfg := readScenario(t, "testdata/egress")
			cfg.HA.Links = []config.HALink{{Interface: test.link, VirtualAddresses: []netip.Addr{virtual}}}
			backup, _ := calc.Calculate(snapshot, host, cfg)
			leaves := func(e gateway.Egress) bool { return e.Address == virtual }
			if got := slices.ContainsFunc(backup.Egresses, leaves); got != test.ahead {
				t.Errorf("pods leave with the address of the peer: %v, want %v", got, test.ahead)
			}
			if got := slices.ContainsFunc(backup.Absent.Egresses, leaves); got == test.ahead {
				t.Errorf("their egress counts as absent: %v", got)
			}
			if !test.ahead {
				return
			}
			host.Links[0].Addresses = append(host.Links[0].Addresses, netip.PrefixFrom(virtual, 32))
			primary, _ := calc.Calculate(snapshot, host, cfg)
			if diff := cmp.Diff(backup, primary, addresses); diff != "" {
				t.Errorf("a takeover changes the State (-before +after):\n%s", diff)
			}
		})
	}
}
