// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package policyrouting

import "slices"

// Changes lead from one Set to another. Each field is in the order in which it is to be carried out, and so are the
// fields: what is added stands before the rule that leads to it, what is removed has lost the rule before.
type Changes struct {
	AddRoutes []Route
	// ReplaceRoutes take the place of a route of ours with the same destination, without a gap.
	ReplaceRoutes []Route
	AddRules      []Rule
	DeleteRules   []Rule
	DeleteRoutes  []Route
}

// Diff returns the changes that lead from have to want. Both hold only what is ours.
func Diff(have, want Set) Changes {
	var c Changes
	c.AddRules = missing(want.Rules, have.Rules)
	c.DeleteRules = missing(have.Rules, want.Rules)
	slices.Reverse(c.DeleteRules)

	// want holds one route of a key, so where it is not in have, no route of its key stays.
	replaced := map[key]bool{}
	for _, r := range want.Routes {
		switch {
		case slices.ContainsFunc(have.Routes, r.Equal):
		case slices.ContainsFunc(have.Routes, func(h Route) bool { return h.key() == r.key() }):
			c.ReplaceRoutes = append(c.ReplaceRoutes, r)
			replaced[r.key()] = true
		default:
			c.AddRoutes = append(c.AddRoutes, r)
		}
	}
	for _, r := range have.Routes {
		switch {
		case slices.ContainsFunc(want.Routes, r.Equal):
		case replaced[r.key()]:
			// The kernel replaces the first route of a key; the rest of them has to be removed.
			delete(replaced, r.key())
		default:
			c.DeleteRoutes = append(c.DeleteRoutes, r)
		}
	}
	slices.Reverse(c.DeleteRoutes)
	return c
}

func missing(from, in []Rule) []Rule {
	var rules []Rule
	for _, r := range from {
		if !slices.Contains(in, r) {
			rules = append(rules, r)
		}
	}
	return rules
}

// Additions are the changes that must be made before anything relies on them.
func (c Changes) Additions() Changes {
	return Changes{AddRoutes: c.AddRoutes, ReplaceRoutes: c.ReplaceRoutes, AddRules: c.AddRules}
}

// Removals are the changes that must wait until nothing relies on what they remove.
func (c Changes) Removals() Changes {
	return Changes{DeleteRules: c.DeleteRules, DeleteRoutes: c.DeleteRoutes}
}

// Rules counts the rules that change.
func (c Changes) Rules() int { return len(c.AddRules) + len(c.DeleteRules) }

// Routes counts the routes that change.
func (c Changes) Routes() int { return len(c.AddRoutes) + len(c.ReplaceRoutes) + len(c.DeleteRoutes) }

// Empty reports whether there is nothing to do.
func (c Changes) Empty() bool { return c.Rules() == 0 && c.Routes() == 0 }

// Append returns c with the changes of o behind its own.
func (c Changes) Append(o Changes) Changes {
	return Changes{
		AddRoutes:     slices.Concat(c.AddRoutes, o.AddRoutes),
		ReplaceRoutes: slices.Concat(c.ReplaceRoutes, o.ReplaceRoutes),
		AddRules:      slices.Concat(c.AddRules, o.AddRules),
		DeleteRules:   slices.Concat(c.DeleteRules, o.DeleteRules),
		DeleteRoutes:  slices.Concat(c.DeleteRoutes, o.DeleteRoutes),
	}
}

// Commands returns the iproute2 commands that carry out the changes.
func (c Changes) Commands() []string {
	var lines []string
	routes := func(verb string, routes []Route) {
		for _, r := range routes {
			lines = append(lines, r.command(verb))
		}
	}
	rules := func(verb string, rules []Rule) {
		for _, r := range rules {
			lines = append(lines, r.command(verb))
		}
	}
	routes("add", c.AddRoutes)
	routes("replace", c.ReplaceRoutes)
	rules("add", c.AddRules)
	rules("del", c.DeleteRules)
	routes("del", c.DeleteRoutes)
	return lines
}
