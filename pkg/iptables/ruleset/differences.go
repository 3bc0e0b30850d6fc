// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package ruleset

import (
	"fmt"
	"strings"

	"github.com/smartnat/smartnat/pkg/packet"
)

// Differences returns what Diff would write, rule by rule, for people. There is none only if the Diff is empty.
func Differences(have, want Ruleset, chainPrefix string) packet.Differences {
	var found packet.Differences
	for _, batch := range Diff(have, want, chainPrefix).Tables {
		had, wanted := have.table(batch.Name), want.table(batch.Name)
		hadOwners, owners := had.owners(), wanted.owners()
		place := func(chain string) string { return batch.Name + " " + chain }
		for _, c := range batch.Write {
			compareRules(&found, place(c.Name), had.rules(c.Name), c.Rules, owners[c.Name])
		}
		for _, chain := range []string{"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"} {
			if removed, inserted := rulesOf(batch.Remove, chain), rulesOf(batch.Insert, chain); len(removed)+len(inserted) > 0 {
				compareRules(&found, place(chain), removed, inserted, "")
			}
		}
		for _, chain := range batch.Delete {
			rules := had.rules(chain)
			if len(rules) == 0 {
				found.Add(packet.Difference{Place: place(chain), Text: "an empty chain"})
			}
			compareRules(&found, place(chain), rules, nil, hadOwners[chain])
		}
	}
	return found
}

// rulesOf returns the rules of a chain.
func rulesOf(list []ChainRule, chain string) (rules []Rule) {
	for _, r := range list {
		if r.Chain == chain {
			rules = append(rules, r.Rule)
		}
	}
	return rules
}

// compareRules adds the rules that are in only one of the lists, in their order. owner is that of rules without one.
func compareRules(found *packet.Differences, place string, have, want []Rule, owner string) {
	before := found.Total
	addExcess(found, packet.Difference{Place: place, Owner: owner}, have, want)
	addExcess(found, packet.Difference{Place: place, Owner: owner, Missing: true}, want, have)
	if found.Total == before {
		text := fmt.Sprintf("the order of %d rules", len(want))
		switch {
		case len(want) == 0:
			text = "an empty chain"
		case len(want) == 1:
			text = want[0].String() + " (as the first rule)"
		}
		found.Add(packet.Difference{Place: place, Owner: owner, Missing: true, Text: text})
	}
}

// addExcess adds the rules of a list that another one lacks.
func addExcess(found *packet.Differences, as packet.Difference, rules, other []Rule) {
	counts := make(map[Rule]int, len(other))
	for _, r := range other {
		counts[r]++
	}
	for _, r := range rules {
		// The comment is at the first rule of a Mapping in a chain.
		if r.Foreign == "" && isOwner(r.Comment) {
			as.Owner = r.Comment
		}
		if counts[r]--; counts[r] < 0 {
			as.Text = r.String()
			found.Add(as)
		}
	}
}

// isOwner reports whether a comment is a Mapping, as namespace/name.
func isOwner(comment string) bool {
	return strings.Count(comment, "/") == 1 && !strings.Contains(comment, " ")
}

func (t Table) rules(chain string) []Rule {
	if i, found := t.find(chain); found {
		return t.Chains[i].Rules
	}
	return nil
}

// owners returns the Mapping whose rules are the only ones that lead to a chain, by the name of the chain.
func (t Table) owners() map[string]string {
	owners := map[string]string{}
	for _, c := range t.Chains {
		current := ""
		for i := range c.Rules {
			r := &c.Rules[i]
			if isOwner(r.Comment) {
				current = r.Comment
			}
			if r.Target.Chain == "" {
				continue
			}
			if owner, found := owners[r.Target.Chain]; found && owner != current {
				owners[r.Target.Chain] = ""
				continue
			}
			owners[r.Target.Chain] = current
		}
	}
	return owners
}
