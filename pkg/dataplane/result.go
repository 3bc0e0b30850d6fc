// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/smartnat/smartnat/pkg/iptables/ruleset"
	"github.com/smartnat/smartnat/pkg/policyrouting"
)

// Result describes the writes of an Apply.
type Result struct {
	// Sysctls lists the kernel parameters that were set or restored, by path.
	Sysctls []string
	// Routing holds the changes to routes and policy routing rules.
	Routing policyrouting.Changes
	// Batches holds the writes to netfilter, at most one batch for each family and Apply.
	Batches []ruleset.Batch
	// Sets counts the sets of networks that were written or removed. Members counts the members that were added or removed.
	Sets, Members int
	// Connections counts the connections that were ended because the state no longer makes them.
	Connections int
	// Repaired lists our objects that another process removed or changed and that this Apply restored.
	Repaired []Repair
	// Readings counts how often all tables of a family were read, which takes much memory.
	Readings int
	// Took is the time that each part took.
	Took Took
	// InPlace means that the tables of every family hold all rules of the state.
	InPlace bool
}

// Kind is the kind of object that was repaired.
type Kind string

// The kinds of objects that another process may change.
const (
	KindIPTables Kind = "iptables"
	KindIPSet    Kind = "ipset"
	KindRoute    Kind = "route"
	KindIPRule   Kind = "ip_rule"
	KindSysctl   Kind = "sysctl"
)

// Kinds returns all kinds, for counters that start at zero.
func Kinds() []Kind { return []Kind{KindIPTables, KindIPSet, KindRoute, KindIPRule, KindSysctl} }

// Repair is an object that differed from what was written.
type Repair struct {
	Kind Kind
	// Missing describes the object.
	Missing string
}

// String returns Missing.
func (r Repair) String() string { return r.Missing }

// Took holds the parts of an Apply whose duration grows with the amount of work.
type Took struct {
	// Observe is the time for reading the kernel, Build for building rules from the state, Diff for comparing both, Restore for
	// the programs that write, and Cut for finding and ending connections.
	Observe, Build, Diff, Restore, Cut time.Duration
}

// Append returns the sum of both results. The other result is the later one.
func (r Result) Append(o Result) Result {
	return Result{
		Sysctls:     slices.Concat(r.Sysctls, o.Sysctls),
		Routing:     r.Routing.Append(o.Routing),
		Batches:     slices.Concat(r.Batches, o.Batches),
		Sets:        r.Sets + o.Sets,
		Members:     r.Members + o.Members,
		Connections: r.Connections + o.Connections,
		Repaired:    slices.Concat(r.Repaired, o.Repaired),
		Readings:    r.Readings + o.Readings,
		Took: Took{
			Observe: r.Took.Observe + o.Took.Observe, Build: r.Took.Build + o.Took.Build, Diff: r.Took.Diff + o.Took.Diff,
			Restore: r.Took.Restore + o.Took.Restore, Cut: r.Took.Cut + o.Took.Cut,
		},
		InPlace: o.InPlace,
	}
}

// Empty reports whether nothing changed.
func (r Result) Empty() bool {
	return len(r.Sysctls) == 0 && r.Routing.Empty() && len(r.Batches) == 0 && r.Sets == 0 && r.Connections == 0
}

// Chains counts the chains that were created, rewritten or deleted.
func (r Result) Chains() int { return r.sum(ruleset.Batch.Chains) }

// Rules counts the rules that were written or removed individually.
func (r Result) Rules() int { return r.sum(ruleset.Batch.Rules) }

// Routes counts the routes that were written or removed.
func (r Result) Routes() int { return r.Routing.Routes() }

// IPRules counts the policy routing rules that were written or removed.
func (r Result) IPRules() int { return r.Routing.Rules() }

func (r Result) sum(count func(ruleset.Batch) int) int {
	n := 0
	for _, b := range r.Batches {
		n += count(b)
	}
	return n
}

// String returns text like "2 sysctls, 3 routes, 1 ip rule, 12 chains, 40 rules" and omits zero counts.
func (r Result) String() string {
	var parts []string
	for _, p := range []struct {
		n    int
		name string
	}{
		{len(r.Sysctls), "sysctl"}, {r.Routes(), "route"}, {r.IPRules(), "ip rule"}, {r.Chains(), "chain"}, {r.Rules(), "rule"},
		{r.Sets, "set"}, {r.Connections, "connection"},
	} {
		switch p.n {
		case 0:
		case 1:
			parts = append(parts, "1 "+p.name)
		default:
			parts = append(parts, fmt.Sprintf("%d %ss", p.n, p.name))
		}
	}
	if len(parts) == 0 {
		return "nothing"
	}
	return strings.Join(parts, ", ")
}

// missingRouting returns a Repair for each change that restores something written before.
func missingRouting(changes policyrouting.Changes, written policyrouting.Set) []Repair {
	var repairs []Repair
	for _, r := range slices.Concat(changes.AddRoutes, changes.ReplaceRoutes) {
		if slices.ContainsFunc(written.Routes, r.Equal) {
			repairs = append(repairs, Repair{KindRoute, "route: " + r.String()})
		}
	}
	for _, r := range changes.AddRules {
		if slices.Contains(written.Rules, r) {
			repairs = append(repairs, Repair{KindIPRule, "ip rule: " + r.String()})
		}
	}
	return repairs
}

// namesShown bounds the text of a Repair, because ten thousand chains may be missing.
const namesShown = 5

// missingRules describes damage, the batch that would restore what was written, by one Repair for each table.
func missingRules(damage ruleset.Batch) []Repair {
	var repairs []Repair
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
			repairs = append(repairs, Repair{KindIPTables, text})
		}
	}
	return repairs
}
