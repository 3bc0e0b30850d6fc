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

// TestAnAddressThatLeavesTakesNothingElse removes the addresses of a link and adds them again: their Forwards are absent
// meanwhile, and unchanged otherwise.
func TestAnAddressThatLeavesTakesNothingElse(t *testing.T) {
	for _, scenario := range []string{"testdata/addresses", "testdata/egress", "testdata/endpoints"} {
		snapshot, host, cfg := readScenario(t, scenario)
		cfg.AnyAddress = false
		if len(host.Links) == 0 {
			cfg.Uplinks = []config.Uplink{{Interface: "eth1"}}
			host.Links = []gateway.Link{{Name: "eth1", Up: true, Addresses: []netip.Prefix{netip.MustParsePrefix("198.51.100.10/24")}}}
		}
		calculator := calc.NewCalculator(cfg)
		before, _ := calculator.Calculate(snapshot, host)
		left := 0
		for i := range host.Links {
			bare := host
			bare.Links = slices.Clone(host.Links)
			bare.Links[i].Addresses = nil
			leaving := func(a netip.Addr) bool {
				return slices.ContainsFunc(host.Links[i].Addresses, func(p netip.Prefix) bool { return p.Addr() == a })
			}
			without, _ := calculator.Calculate(snapshot, bare)
			checkState(t, without, cfg)
			for _, f := range before.Forwards {
				list := without.Forwards
				if leaving(f.Address) {
					list = without.Absent.Forwards
					left++
				}
				i := slices.IndexFunc(list, func(o *gateway.Forward) bool { return o.Frontend == f.Frontend })
				if i < 0 {
					t.Errorf("%s: %s is nowhere", scenario, f.Frontend)
				} else if diff := cmp.Diff(f, list[i], addresses); diff != "" {
					t.Errorf("%s: %s changed (-before +after):\n%s", scenario, f.Frontend, diff)
				}
			}
			if n := len(before.Forwards) + len(before.Absent.Forwards); len(without.Forwards)+len(without.Absent.Forwards) != n {
				t.Errorf("%s: %d and %d Forwards, want %d together", scenario, len(without.Forwards), len(without.Absent.Forwards), n)
			}
			for _, e := range before.Egresses {
				for _, pod := range e.Sources {
					if leaves := egressOf(without, pod); leaving(e.Address) != (leaves.Uplink == 0) && leaves.Address == e.Address || !leaves.Address.IsValid() {
						t.Errorf("%s: %s left with %s and leaves with %+v", scenario, pod, e.Address, leaves)
					}
				}
			}
		}
		after, _ := calculator.Calculate(snapshot, host)
		if diff := cmp.Diff(before, after, addresses); diff != "" || left == 0 {
			t.Errorf("%s: %d Forwards were absent (-before +after they returned):\n%s", scenario, left, diff)
		}
	}
}

func egressOf(state gateway.State, pod netip.Addr) gateway.Egress {
	all := slices.Concat(state.Egresses, state.Absent.Egresses)
	if i := slices.IndexFunc(all, func(e gateway.Egress) bool { return slices.Contains(e.Sources, pod) }); i >= 0 {
		return all[i]
	}
	return gateway.Egress{}
}
