// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package grants

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// Selection is what a PortGrant selects among the namespaces that exist, and where others give the same.
type Selection struct {
	// Namespaces is the number of selected namespaces.
	Namespaces int
	// All is set if an empty selector selects all namespaces, also those to come.
	All bool
	// Missing are the namespaces that the PortGrant names and that do not exist.
	Missing []string
	// Overlaps names the first few PortGrants that give one of the namespaces some of the same ports of an address, in the order of
	// precedence.
	Overlaps []string
}

// mostCompared bounds the Grants of a namespace that are compared with each other.
const mostCompared = 64

// Selections returns the Selection of each PortGrant, by its name. namespaces are all that exist, also those given to New.
func (g *Grants) Selections(namespaces []*corev1.Namespace) map[string]Selection {
	if g == nil || g.index == nil {
		return nil
	}
	counts, overlaps := map[*Grant]int{}, map[*Grant][]*Grant{}
	exists, compared := make(map[string]bool, len(namespaces)), map[**Grant]bool{}
	for _, n := range namespaces {
		exists[n.Name] = true
		own := g.Of(n.Name)
		for _, grant := range own {
			counts[grant]++
		}
		// Namespaces without a grant of their own share a list.
		if len(own) > 1 && !compared[&own[0]] {
			compared[&own[0]] = true
			compare(own[:min(len(own), mostCompared)], overlaps)
		}
	}
	selections := make(map[string]Selection, len(g.all))
	for _, grant := range g.all {
		s := Selection{Namespaces: counts[grant], All: grant.selector != nil && grant.selector.Empty()}
		for _, name := range grant.namespaces {
			if !exists[name] {
				s.Missing = append(s.Missing, name)
			}
		}
		others := overlaps[grant]
		slices.SortFunc(others, precedence)
		for _, other := range others {
			s.Overlaps = append(s.Overlaps, other.Name)
		}
		selections[grant.Name] = s
	}
	return selections
}

// compare adds the overlaps of each two of the Grants.
func compare(list []*Grant, overlaps map[*Grant][]*Grant) {
	add := func(to, other *Grant) {
		if len(overlaps[to]) < mostNamed && !slices.Contains(overlaps[to], other) {
			overlaps[to] = append(overlaps[to], other)
		}
	}
	for i, a := range list {
		for _, b := range list[i+1:] {
			if a.overlaps(b) {
				add(a, b)
				add(b, a)
			}
		}
	}
}

// overlaps reports whether both have a port of an address.
func (g *Grant) overlaps(o *Grant) bool {
	return slices.ContainsFunc(g.addresses, func(a netip.Prefix) bool { return slices.ContainsFunc(o.addresses, a.Overlaps) }) &&
		(len(g.ports) == 0 || len(o.ports) == 0 ||
			slices.ContainsFunc(g.ports, func(p ports) bool { return slices.ContainsFunc(o.ports, p.overlaps) }))
}

func (p ports) overlaps(o ports) bool {
	return (p.protocol == "" || o.protocol == "" || p.protocol == o.protocol) && p.first <= o.last && o.first <= p.last
}
