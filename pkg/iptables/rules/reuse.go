// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"slices"

	"github.com/smartnat/smartnat/pkg/delta"
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/iptables/ruleset"
)

// cache holds the input and the parts of the last build, and how the input of the current build differs.
type cache struct {
	// built means that there is a last build.
	built    bool
	state    gateway.State
	forwards []*gateway.Forward

	// sameHost means that all input other than forwards is unchanged.
	sameHost bool
	// unchanged are the forwards that need the same rules as in the last build.
	unchanged delta.Runs

	mangle, filter ruleset.Table
	// natHost holds the chains of the nat table that do not depend on forwards, services those that jump to the trees, and nat
	// all of them.
	natHost, services, nat []*ruleset.Chain
	trees                  []tree
	// sources are the chains that check sources, by name.
	sources map[string]*sharedChain
	// setUsers holds the indexes of the forwards whose sources are in a set. sets are the sets that they name.
	setUsers []int
	sets     []ruleset.Set
}

// buffers holds memory that a build can reuse from the last one.
type buffers struct {
	// drafts are the rules of unfinished chains. pieces are the merged forwards of a leaf.
	drafts [][]ruleset.Rule
	pieces []*gateway.Forward
}

// compare compares the input of a build with that of the last one.
func (c *cache) compare(state *gateway.State, forwards []*gateway.Forward) {
	c.sameHost = c.built && sameHost(&c.state, state)
	c.unchanged = delta.AppendRuns(c.unchanged[:0], c.forwards, forwards, compareFrontends, sameRules)
}

func compareFrontends(x, y *gateway.Forward) int { return x.Compare(y.Frontend) }

// sameHost reports whether all input other than forwards is the same. The raw table, which reads Helpers, is not reused.
func sameHost(x, y *gateway.State) bool {
	return x.ClampMSS == y.ClampMSS && x.ForwardedOnly == y.ForwardedOnly && x.MasqueradePorts == y.MasqueradePorts &&
		slices.EqualFunc(x.MasqueradeAddresses, y.MasqueradeAddresses, gateway.LinkAddresses.Equal) && x.Sync == y.Sync &&
		x.MasqueradeRemote == y.MasqueradeRemote && slices.Equal(x.LocalBackends, y.LocalBackends) &&
		x.ForwardingOwned == y.ForwardingOwned && x.BridgeNetfilter == y.BridgeNetfilter && slices.Equal(x.InsideLinks, y.InsideLinks) &&
		slices.Equal(x.InsideNetworks, y.InsideNetworks) && slices.Equal(x.BackendNetworks, y.BackendNetworks) &&
		slices.Equal(x.Outside, y.Outside) &&
		slices.EqualFunc(x.ServiceRoutes, y.ServiceRoutes, func(x, y gateway.ServiceRoute) bool { return x.Destination == y.Destination }) &&
		slices.EqualFunc(x.Uplinks, y.Uplinks, func(x, y gateway.Uplink) bool { return x.Link == y.Link && x.Number == y.Number }) &&
		slices.EqualFunc(x.Egresses, y.Egresses, func(x, y gateway.Egress) bool {
			return x.Address == y.Address && x.Uplink == y.Uplink && x.Owner == y.Owner && same(x.Sources, y.Sources)
		})
}

// sameRules reports whether two forwards have the same rules.
func sameRules(x, y *gateway.Forward) bool {
	return x.Frontend == y.Frontend && x.Owner == y.Owner && x.SourcesDeny == y.SourcesDeny && x.Shift == y.Shift &&
		x.Masquerade == y.Masquerade && x.Affinity == y.Affinity && x.Service == y.Service && same(x.Backends, y.Backends) && same(x.Sources, y.Sources)
}

// same compares slices, most of which share their memory.
func same[T comparable](x, y []T) bool {
	return len(x) == len(y) && (len(x) == 0 || &x[0] == &y[0] || slices.Equal(x, y))
}

// reuseChain returns the chain that the part had in the last build if it is equal, so that comparing it is fast. Otherwise it
// copies the rules to a slice of the exact size.
func (b *builder) reuseChain(name string, rules []ruleset.Rule) *ruleset.Chain {
	for _, c := range b.earlier {
		if c.Name == name && slices.Equal(c.Rules, rules) {
			return c
		}
	}
	return &ruleset.Chain{Name: name, Rules: append(make([]ruleset.Rule, 0, len(rules)), rules...)}
}

// draft returns an empty slice for the rules of a chain that is built rule by rule.
func (b *builder) draft() []ruleset.Rule {
	if n := len(b.drafts); n > 0 {
		draft := b.drafts[n-1]
		b.drafts = b.drafts[:n-1]
		return draft
	}
	return make([]ruleset.Rule, 0, 2*leafRules)
}

// release returns the slice for reuse.
func (b *builder) release(draft []ruleset.Rule) { b.drafts = append(b.drafts, draft[:0]) }

// hostTable returns a table that does not depend on forwards.
func (b *builder) hostTable(last *ruleset.Table, name string, fill func()) ruleset.Table {
	if !b.last.sameHost {
		*last = b.table(name, fill)
	}
	return *last
}

// reuse returns the chains of the last build if their input is unchanged, or else the chains that fill adds.
func (b *builder) reuse(unchanged bool, last []*ruleset.Chain, fill func()) []*ruleset.Chain {
	if unchanged {
		return last
	}
	return b.collect(fill)
}

// reuseTrees returns the trees of the last build if all forwards are unchanged, or else those that build returns.
func (b *builder) reuseTrees(build func() []tree) []tree {
	if b.last.unchanged.All(len(b.last.forwards), len(b.forwards)) {
		return b.last.trees
	}
	return build()
}

// reuseSets returns the sets of the last build if no forward with a set is changed, or else what build returns for the indexes of
// all forwards with a set. It checks only forwards that changed.
func (b *builder) reuseSets(build func(users []int) []ruleset.Set) []ruleset.Set {
	last := b.last.setUsers
	var users []int
	added, kept, next := false, 0, 0
	checkUpTo := func(end int) {
		for ; next < end; next++ {
			if usesSet(b.forwards[next]) {
				users, added = append(users, next), true
			}
		}
	}
	for _, run := range b.last.unchanged {
		checkUpTo(run.Now)
		next = run.Now + run.Len
		from, _ := slices.BinarySearch(last, run.Before)
		to, _ := slices.BinarySearch(last, run.Before+run.Len)
		for _, i := range last[from:to] {
			users = append(users, i-run.Before+run.Now)
		}
		kept += to - from
	}
	checkUpTo(len(b.forwards))
	b.last.setUsers = users
	if added || kept < len(last) {
		b.last.sets = build(users)
	}
	return b.last.sets
}

// replaceNAT replaces the parts of the nat table, and returns all of its chains, sorted.
func (c *cache) replaceNAT(host, services []*ruleset.Chain, trees []tree) []*ruleset.Chain {
	var change chainChange
	change.replace(c.natHost, host)
	change.replace(c.services, services)
	change.replaceTrees(c.trees, trees, c.sources)
	c.natHost, c.services, c.trees = host, services, trees
	c.nat = change.Apply(c.nat, compareNames)
	return c.nat
}

// chainChange holds the chains that leave a table and those that enter it.
type chainChange struct {
	delta.Change[*ruleset.Chain]
}

// sharedChain is a chain to which several nodes jump, and the number of these nodes.
type sharedChain struct {
	*ruleset.Chain
	uses int
}

// replace replaces a list of chains with another, unless it is the same one.
func (c *chainChange) replace(before, now []*ruleset.Chain) {
	if !same(before, now) {
		c.Removed, c.Added = append(c.Removed, before...), append(c.Added, now...)
	}
}

// replaceTrees replaces the chains of trees with those of other trees. Both lists are sorted. It counts the uses of the chains
// that check sources.
func (c *chainChange) replaceTrees(before, now []tree, sources map[string]*sharedChain) {
	var nodes nodeChange
	for was, is := range delta.Join(before, now, tree.compare) {
		nodes.replace(was.rootNode(), is.rootNode())
	}
	// Count the new nodes first, so that chains which they share with old nodes stay.
	for _, n := range nodes.Added {
		c.Added = append(c.Added, n.chains...)
		for _, s := range n.sources {
			if sources[s.Name] == nil {
				sources[s.Name] = &sharedChain{Chain: s}
				c.Added = append(c.Added, s)
			}
			sources[s.Name].uses++
		}
	}
	for _, n := range nodes.Removed {
		c.Removed = append(c.Removed, n.chains...)
		for _, s := range n.sources {
			if sources[s.Name].uses--; sources[s.Name].uses == 0 {
				delete(sources, s.Name)
				c.Removed = append(c.Removed, s)
			}
		}
	}
}

// nodeChange holds the nodes that leave the trees and those that enter them.
type nodeChange struct {
	delta.Change[*node]
}

// replace replaces a node with another one for the same block. Either may be nil. Unchanged nodes below stay.
func (c *nodeChange) replace(before, now *node) {
	if before == now {
		return
	}
	if before != nil {
		c.Removed = append(c.Removed, before)
		for _, below := range before.below {
			c.replace(below, now.child(below.block))
		}
	}
	if now != nil {
		c.Added = append(c.Added, now)
		for _, below := range now.below {
			if before.child(below.block) == nil {
				c.replace(nil, below)
			}
		}
	}
}
