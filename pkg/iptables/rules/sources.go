// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/iptables/ruleset"
)

// listedSources is the number of sources up to which they are rules of a chain, if the host supports sets. A set costs a packet
// about as much as three rules, and costs an additional call to write.
const listedSources = 64

// allowedSources returns the sources that may connect, or none if all may.
func allowedSources(f *gateway.Forward) []netip.Prefix {
	if len(f.Sources) > 0 && f.Sources[0].Bits() == 0 {
		return nil // The network of all addresses sorts first.
	}
	return f.Sources
}

// needsSet reports whether sources belong in a set.
func needsSet(sources []netip.Prefix) bool { return len(sources) > listedSources }

func sameSources(x, y *gateway.Forward) bool {
	if x.SourcesDeny != y.SourcesDeny {
		return false
	}
	a, b := allowedSources(x), allowedSources(y)
	return same(a, b) && (!needsSet(a) || x.Owner == y.Owner)
}

// appendSourceCheck appends the rules that drop packets from all sources but those of the forwards, which have the same sources.
func (b *builder) appendSourceCheck(rules []ruleset.Rule, forwards []*gateway.Forward) []ruleset.Rule {
	sources := allowedSources(forwards[0])
	switch {
	case len(sources) == 0:
		return rules
	case b.opts.Sets && needsSet(sources):
		from := len(rules)
		rules = appendPortRules(rules, forwards, b.goTo(markDropChain))
		for i := range rules[from:] {
			rules[from+i].SourceSet = ruleset.SetMatch{Name: b.setName(forwards[0].Owner), Not: true}
		}
		return rules
	}
	rules = appendPortRules(rules, forwards, b.jump(b.sourceChain(sources)))
	return append(rules, ruleset.Rule{Mark: dropMark(b.opts.Ownership), Target: ruleset.Target{Verb: ruleset.Return}})
}

// sourceChain returns the chain that marks packets from all other sources to be dropped. Equal lists share a chain, so it is
// named after its content.
func (b *builder) sourceChain(sources []netip.Prefix) string {
	chain := &ruleset.Chain{Name: b.name(sourceChain(sources))}
	if known := b.last.sources[chain.Name]; known != nil {
		chain = known.Chain
	} else {
		for _, s := range sources {
			chain.Rules = append(chain.Rules, ruleset.Rule{Source: s, Target: ruleset.Target{Verb: ruleset.Return}})
		}
		chain.Rules = append(chain.Rules, ruleset.Rule{Target: b.goTo(markDropChain)})
	}
	b.sources = append(b.sources, chain)
	return sourceChain(sources)
}

// setName returns the name of the set of a Mapping's sources.
func (b *builder) setName(owner string) string {
	return setName(b.opts.Ownership.SetPrefix, owner, b.family)
}

// sets returns the sets that the rules name, sorted by name.
func (b *builder) sets() []ruleset.Set {
	if !b.opts.Sets {
		return nil
	}
	return b.reuseSets(func(users []int) []ruleset.Set {
		var sets []ruleset.Set
		named := map[string]bool{}
		for _, i := range users {
			if f := b.forwards[i]; !named[f.Owner] {
				named[f.Owner] = true
				sets = append(sets, ruleset.Set{Name: b.setName(f.Owner), Family: b.family, Members: allowedSources(f)})
			}
		}
		slices.SortFunc(sets, func(x, y ruleset.Set) int { return strings.Compare(x.Name, y.Name) })
		return sets
	})
}

// usesSet reports whether the sources of a forward are in a set.
func usesSet(f *gateway.Forward) bool { return needsSet(allowedSources(f)) }
