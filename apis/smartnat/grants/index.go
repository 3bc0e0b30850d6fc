// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package grants

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
)

// index has PortGrants by what selects namespaces, so that thousands of them are not matched with thousands of namespaces.
type index struct {
	list []*v1alpha1.PortGrant
	// noun is how messages call one of them.
	noun string
	// all are sorted: the highest priority first, then by name.
	all     []*Grant
	covered addressSet
	// toAll are the grants of every namespace. named has those of each namespace that a grant names, together with toAll.
	toAll []*Grant
	named map[string][]*Grant
	// selections are the distinct selectors. byLabel has those that need one of some labels, "KEY=VALUE", and others the rest.
	selections []*chosen
	byLabel    map[string][]*chosen
	others     []*chosen
}

// chosen are the grants with the same selector.
type chosen struct {
	number   int
	selector labels.Selector
	grants   []*Grant
}

// newIndex reuses what an earlier index has parsed.
func newIndex(list []*v1alpha1.PortGrant, noun string, before *index) *index {
	known := map[*v1alpha1.PortGrant]*Grant{}
	if before != nil && before.noun == noun {
		for _, g := range before.all {
			known[g.from] = g
		}
	}
	x := &index{list: slices.Clone(list), noun: noun, covered: addressSet{}, named: map[string][]*Grant{}, byLabel: map[string][]*chosen{}}
	for _, from := range list {
		grant := known[from]
		if grant == nil {
			grant = parse(from)
			grant.noun = noun + " " + from.Name
		}
		x.all = append(x.all, grant)
		x.covered.add(grant.addresses...)
	}
	slices.SortFunc(x.all, precedence)
	bySelector := map[string]*chosen{}
	for _, grant := range x.all {
		for _, name := range grant.namespaces {
			x.named[name] = append(x.named[name], grant)
		}
		switch {
		case grant.selector == nil:
		case grant.selector.Empty():
			x.toAll = append(x.toAll, grant)
		default:
			text := grant.selector.String()
			if bySelector[text] == nil {
				bySelector[text] = x.choose(grant.selector)
			}
			bySelector[text].grants = append(bySelector[text].grants, grant)
		}
	}
	if len(x.toAll) > 0 {
		for name, own := range x.named {
			x.named[name] = merge(own, x.toAll)
		}
	}
	return x
}

// choose adds a selector.
func (x *index) choose(selector labels.Selector) *chosen {
	c := &chosen{number: len(x.selections), selector: selector}
	x.selections = append(x.selections, c)
	requirements, _ := selector.Requirements()
	for _, r := range requirements {
		switch r.Operator() {
		case selection.Equals, selection.DoubleEquals, selection.In:
			for value := range r.Values() {
				label := r.Key() + "=" + value
				x.byLabel[label] = append(x.byLabel[label], c)
			}
			return c
		}
	}
	x.others = append(x.others, c)
	return c
}

// matches computes the grants of namespaces.
type matches struct {
	*index
	// merged are results by the numbers of the selectors, for namespaces that no grant names.
	merged map[string][]*Grant
}

// of returns the grants of a namespace, and false if no selector matches it.
func (m *matches) of(n *corev1.Namespace) ([]*Grant, bool) {
	var matching []*chosen
	try := func(candidates []*chosen) {
		for _, c := range candidates {
			if c.selector.Matches(labels.Set(n.Labels)) {
				matching = append(matching, c)
			}
		}
	}
	for key, value := range n.Labels {
		try(m.byLabel[key+"="+value])
	}
	try(m.others)
	if len(matching) == 0 {
		return nil, false
	}
	slices.SortFunc(matching, func(a, b *chosen) int { return a.number - b.number })
	lists, numbers := [][]*Grant{m.toAll}, ""
	for _, c := range matching {
		lists, numbers = append(lists, c.grants), numbers+fmt.Sprint(c.number, " ")
	}
	if own, named := m.named[n.Name]; named {
		return merge(append(lists, own)...), true
	}
	if m.merged[numbers] == nil {
		m.merged[numbers] = merge(lists...)
	}
	return m.merged[numbers], true
}

// merge returns the Grants of all lists, each once, in the order of precedence.
func merge(lists ...[]*Grant) []*Grant {
	merged := slices.Concat(lists...)
	slices.SortFunc(merged, precedence)
	return slices.Compact(merged)
}
