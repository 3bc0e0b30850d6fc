// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/smartnat/smartnat/pkg/netfilter"
	"github.com/smartnat/smartnat/pkg/policyrouting"
)

// Result is what was written.
type Result struct {
	// Sysctls are the kernel's parameters that were set or put back, by path.
	Sysctls []string
	// Routing are the changes to routes and rules of policy routing.
	Routing policyrouting.Changes
	// Batches are what was written to netfilter, at most one a family by each Apply.
	Batches []netfilter.Batch
	// Sets is how many sets of networks were written or removed, Members how many members of them came or went.
	Sets, Members int
	// Connections is how many were ended because the state does not make them any more.
	Connections int
	// Repaired is what somebody else removed or changed since it was written, found by this Apply and put back.
	Repaired []Repair
	// Readings is how often all tables of a family were read, which takes much memory for a while.
	Readings int
	// Took says where the time went.
	Took Took
	// InPlace is set when the tables of every family hold all rules that the state asks for.
	InPlace bool
}

// Kind is what a Repair was made to.
type Kind string

// The kinds of what somebody else may change.
const (
	KindIPTables Kind = "iptables"
	KindIPSet    Kind = "ipset"
	KindRoute    Kind = "route"
	KindIPRule   Kind = "ip_rule"
	KindSysctl   Kind = "sysctl"
)

// Kinds are all there are, for those who count them from zero on.
func Kinds() []Kind { return []Kind{KindIPTables, KindIPSet, KindRoute, KindIPRule, KindSysctl} }

// Repair is one thing that was not as it had been written.
type Repair struct {
	Kind Kind
	// Missing says what it was, in words.
	Missing string
}

// String returns what was missing.
func (r Repair) String() string { return r.Missing }

// Took are the parts of an Apply that take time as there is more to do.
type Took struct {
	// Observe is the kernel being read, Build rules being made of the state, Diff the comparison of both, Restore the run of
	// the programs that write, and Cut connections being looked for and ended.
	Observe, Build, Diff, Restore, Cut time.Duration
}

// Append returns what was written by both, of which the other one is the later.
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

// Empty reports whether nothing was changed.
func (r Result) Empty() bool {
	return len(r.Sysctls) == 0 && r.Routing.Empty() && len(r.Batches) == 0 && r.Sets == 0 && r.Connections == 0
}

// Chains counts the chains that were created, rewritten or deleted.
func (r Result) Chains() int { return r.sum(netfilter.Batch.Chains) }

// Rules counts the rules that were written, or removed one by one.
func (r Result) Rules() int { return r.sum(netfilter.Batch.Rules) }

// Routes counts the routes that were written or removed.
func (r Result) Routes() int { return r.Routing.Routes() }

// IPRules counts the rules of policy routing that were written or removed.
func (r Result) IPRules() int { return r.Routing.Rules() }

func (r Result) sum(count func(netfilter.Batch) int) int {
	n := 0
	for _, b := range r.Batches {
		n += count(b)
	}
	return n
}

// String returns "2 sysctls, 3 routes, 1 ip rule, 12 chains, 40 rules", without what there is none of.
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

// missingRouting says which of the changes bring back what was written before.
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

// namesShown bounds the text of a Repair: ten thousand chains may be gone.
const namesShown = 5

// missingRules says, one Repair a table, what a batch that would bring back what was written repairs.
func missingRules(damage netfilter.Batch) []Repair {
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
		add("chains of nobody's:", t.Delete)
		if len(parts) > 0 {
			text := fmt.Sprintf("IPv%d table %s: %s", damage.Family, t.Name, strings.Join(parts, "; "))
			repairs = append(repairs, Repair{KindIPTables, text})
		}
	}
	return repairs
}
