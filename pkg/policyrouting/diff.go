// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package policyrouting

import "slices"

// Changes transform one Set into another. The fields and their elements are in execution order: a route is added before the
// rule that needs it, and a rule is deleted before the route that it needs.
type Changes struct {
	AddRoutes []Route
	// ReplaceRoutes replace our routes with the same key without a gap.
	ReplaceRoutes []Route
	AddRules      []Rule
	DeleteRules   []Rule
	DeleteRoutes  []Route
}

// Diff returns the changes from have to want. Both must contain only our routes and rules.
func Diff(have, want Set) Changes {
	var c Changes
	c.AddRules = missing(want.Rules, have.Rules)
	c.DeleteRules = missing(have.Rules, want.Rules)
	slices.Reverse(c.DeleteRules)

	// want has one route per key, so if have lacks it, no route with its key stays.
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
			// The kernel replaces the first route of a key; the other ones must be deleted.
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

// Additions returns the changes that must be made before anything depends on them.
func (c Changes) Additions() Changes {
	return Changes{AddRoutes: c.AddRoutes, ReplaceRoutes: c.ReplaceRoutes, AddRules: c.AddRules}
}

// Removals returns the changes that must wait until nothing depends on what they remove.
func (c Changes) Removals() Changes {
	return Changes{DeleteRules: c.DeleteRules, DeleteRoutes: c.DeleteRoutes}
}

// Rules returns the number of rule changes.
func (c Changes) Rules() int { return len(c.AddRules) + len(c.DeleteRules) }

// Routes returns the number of route changes.
func (c Changes) Routes() int { return len(c.AddRoutes) + len(c.ReplaceRoutes) + len(c.DeleteRoutes) }

// Empty reports whether there are no changes.
func (c Changes) Empty() bool { return c.Rules() == 0 && c.Routes() == 0 }

// Append returns the changes of c followed by those of o.
func (c Changes) Append(o Changes) Changes {
	return Changes{
		AddRoutes:     slices.Concat(c.AddRoutes, o.AddRoutes),
		ReplaceRoutes: slices.Concat(c.ReplaceRoutes, o.ReplaceRoutes),
		AddRules:      slices.Concat(c.AddRules, o.AddRules),
		DeleteRules:   slices.Concat(c.DeleteRules, o.DeleteRules),
		DeleteRoutes:  slices.Concat(c.DeleteRoutes, o.DeleteRoutes),
	}
}

// Commands returns the changes as iproute2 commands.
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
