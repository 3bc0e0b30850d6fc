// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/smartnat/smartnat/pkg/plan"
)

func TestPrintDiff(t *testing.T) {
	rules := []plan.Difference{{Kind: "sysctl", Missing: true, Place: "net/ipv4/ip_forward", Text: "1 (it is 0)"}}
	for range shownRules + 2 {
		rules = append(rules, plan.Difference{Mapping: "shop/db", Kind: "ip_rule", Family: 6, Text: "x"})
	}
	changed := plan.Mapping{
		Mapping: "shop/db", Problems: []string{"spec.ports: no"}, Solved: []string{"spec.addresses: yes"},
		Changes: []plan.Change{{Of: "a", Before: &plan.Target{Backends: []string{"b1", "b2", "b3", "b4"}}, After: &plan.Target{Sources: []string{"s"}, Options: []string{"o"}}}},
	}
	for _, tc := range []struct {
		name         string
		diff         plan.Diff
		preview, all bool
		want         string
	}{
		{"nothing", plan.Diff{}, false, false, "no differences\n"},
		{"only the kernel", plan.Diff{Total: 8, Kernel: rules}, false, false, `8 things differ in the kernel (+ missing, - not wanted)
  the whole gateway, or several Mappings
    + sysctl net/ipv4/ip_forward: 1 (it is 0)
  Mapping shop/db
` + strings.Repeat("    - ip rule IPv6: x\n", shownRules) + "    and 2 more: --rules prints them\n"},
		{"a manifest", plan.Diff{Mappings: []plan.Mapping{changed}, Total: 8, Kernel: rules[1:]}, true, true, `Mapping shop/db would change
  - a -> b1, b2, b3 and 1 more
  + a for s (o)
  problem: spec.ports: no
  solved: spec.addresses: yes
8 things would change in the kernel (+ added, - removed)
  Mapping shop/db
` + strings.Repeat("    - ip rule IPv6: x\n", shownRules+2)},
		{"a manifest without rules", plan.Diff{Mappings: []plan.Mapping{{Mapping: "a/b"}}}, true, false, "Mapping a/b would change\nthe kernel would not change\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var text strings.Builder
			if err := printDiff(&text, tc.diff, tc.preview, tc.all); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, text.String()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
