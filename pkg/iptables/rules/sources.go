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

// allowed returns the sources that may connect, or none if all may.
func allowed(f *gateway.Forward) []netip.Prefix {
	if len(f.Sources) > 0 && f.Sources[0].Bits() == 0 {
		return nil // The network of all addresses sorts first.
	}
	return f.Sources
}

// many reports whether sources belong in a set.
func many(sources []netip.Prefix) bool { return len(sources) > listedSources }

func sameSources(x, y *gateway.Forward) bool {
	if x.SourcesDeny != y.SourcesDeny {
		return false
	}
	a, b := allowed(x), allowed(y)
	return same(a, b) && (!many(a) || x.Owner == y.Owner)
}

// same compares slices, most of which share their memory.
func same[T comparable](x, y []T) bool {
	return len(x) == len(y) && (len(x) == 0 || &x[0] == &y[0] || slices.Equal(x, y))
}

// check appends the rules that drop packets from all sources but those of the forwards, which have the same sources.
func (b *builder) check(rules []ruleset.Rule, forwards []*gateway.Forward) []ruleset.Rule {
	sources := allowed(forwards[0])
	switch {
	case len(sources) == 0:
		return rules
	case b.opts.Sets && many(sources):
		from := len(rules)
		rules = toAllPorts(rules, forwards, b.goTo(markDropChain))
		for i := range rules[from:] {
			rules[from+i].SourceSet = ruleset.SetMatch{Name: b.setName(forwards[0].Owner), Not: true}
		}
		return rules
	}
	rules = toAllPorts(rules, forwards, b.jump(b.sourceChain(sources)))
	return append(rules, ruleset.Rule{Mark: b.opts.Ownership.Drop(), Target: ruleset.Target{Verb: ruleset.Return}})
}

// sourceChain returns the chain that marks packets from all other sources to be dropped. Equal lists share a chain, so it is
// named after its content.
func (b *builder) sourceChain(sources []netip.Prefix) string {
	chain := &ruleset.Chain{Name: b.name(sourceChain(sources))}
	if known := b.before.sources[chain.Name]; known != nil {
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

// setsOf returns the sets that the rules name, and the indexes of the forwards that use them. It checks only forwards that
// changed.
func (b *builder) setsOf() ([]int, []ruleset.Set) {
	if !b.opts.Sets {
		return nil, nil
	}
	var crowded []int
	changed, next := false, 0
	lookUpTo := func(end int) {
		for ; next < end; next++ {
			if many(allowed(b.forwards[next])) {
				crowded, changed = append(crowded, next), true
			}
		}
	}
	stay := 0
	for _, s := range b.spans {
		lookUpTo(s.now)
		next = s.now + s.n
		from, _ := slices.BinarySearch(b.before.crowded, s.before)
		to, _ := slices.BinarySearch(b.before.crowded, s.before+s.n)
		for _, place := range b.before.crowded[from:to] {
			crowded = append(crowded, place-s.before+s.now)
		}
		stay += to - from
	}
	lookUpTo(len(b.forwards))
	if !changed && stay == len(b.before.crowded) {
		return crowded, b.before.sets
	}
	return crowded, b.setsAt(crowded)
}

// setsAt returns the sets of the forwards at these indexes.
func (b *builder) setsAt(crowded []int) []ruleset.Set {
	var sets []ruleset.Set
	named := map[string]bool{}
	for _, place := range crowded {
		if f := b.forwards[place]; !named[f.Owner] {
			named[f.Owner] = true
			sets = append(sets, ruleset.Set{Name: b.setName(f.Owner), Family: b.family, Members: allowed(f)})
		}
	}
	slices.SortFunc(sets, func(x, y ruleset.Set) int { return strings.Compare(x.Name, y.Name) })
	return sets
}
