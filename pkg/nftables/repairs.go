// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package nftables

import (
	"fmt"
	"slices"
	"strings"

	"github.com/smartnat/smartnat/pkg/dataplane"
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/nftables/ruleset"
)

// namesShown bounds the text of a Repair, because ten thousand chains may be missing.
const namesShown = 5

// repairs describes damage, the batch that would restore what was written.
func repairs(name gateway.Family, damage ruleset.Batch) []dataplane.Repair {
	if damage.Empty() {
		return nil
	}
	var parts []string
	add := func(what string, names []string) {
		if len(names) == 0 {
			return
		}
		slices.Sort(names)
		names = slices.Compact(names)
		shown := strings.Join(names[:min(len(names), namesShown)], " ")
		if more := len(names) - namesShown; more > 0 {
			shown += fmt.Sprintf(" and %d more", more)
		}
		parts = append(parts, what+" "+shown)
	}
	var chains, unexpected, sets, flowtables []string
	for _, c := range slices.Concat(damage.AddChains, damage.ReplaceChains) {
		chains = append(chains, c.Name)
	}
	for _, c := range damage.DeleteChains {
		unexpected = append(unexpected, c.Name)
	}
	for _, s := range damage.AddSets {
		sets = append(sets, s.Name)
	}
	for _, s := range damage.DeleteSets {
		unexpected = append(unexpected, s.Name)
	}
	for _, e := range slices.Concat(damage.AddElements, damage.DeleteElements) {
		sets = append(sets, e.Set)
	}
	add("chains missing or changed:", chains)
	add("sets missing or changed:", sets)
	for _, f := range damage.AddFlowtables {
		flowtables = append(flowtables, f.Name)
	}
	for _, f := range damage.DeleteFlowtables {
		if !slices.Contains(flowtables, f.Name) {
			unexpected = append(unexpected, f.Name)
		}
	}
	add("flowtables missing or changed:", flowtables)
	add("unexpected:", unexpected)
	if damage.ReplaceBridge {
		parts = append(parts, "chains of bridges missing or changed")
	}
	if damage.Rewrite {
		parts = append(parts, "objects of another shape")
	}
	return []dataplane.Repair{{Kind: dataplane.KindNFTables, Missing: fmt.Sprintf("IPv%d table of nf_tables: %s", name, strings.Join(parts, "; "))}}
}
