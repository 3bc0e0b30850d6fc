// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package iptables

import (
	"fmt"
	"slices"
	"strings"

	"github.com/smartnat/smartnat/pkg/dataplane"
	"github.com/smartnat/smartnat/pkg/iptables/ruleset"
)

// namesShown bounds the text of a Repair, because ten thousand chains may be missing.
const namesShown = 5

// repairs describes damage, the batch that would restore what was written, by one Repair for each table.
func repairs(damage ruleset.Batch) []dataplane.Repair {
	var found []dataplane.Repair
	for _, t := range damage.Tables {
		var parts []string
		add := func(what string, names []string) {
			if len(names) == 0 {
				return
			}
			names = slices.Compact(names)
			shown := strings.Join(names[:min(len(names), namesShown)], " ")
			if more := len(names) - namesShown; more > 0 {
				shown += fmt.Sprintf(" and %d more", more)
			}
			parts = append(parts, what+" "+shown)
		}
		var chains, jumps []string
		for _, c := range t.Write {
			chains = append(chains, c.Name)
		}
		for _, r := range t.Insert {
			jumps = append(jumps, r.Chain)
		}
		add("chains missing or changed:", chains)
		add("jumps missing or not first:", jumps)
		add("unexpected chains:", t.Delete)
		if len(parts) > 0 {
			text := fmt.Sprintf("IPv%d table %s: %s", damage.Family, t.Name, strings.Join(parts, "; "))
			found = append(found, dataplane.Repair{Kind: dataplane.KindIPTables, Missing: text})
		}
	}
	return found
}
