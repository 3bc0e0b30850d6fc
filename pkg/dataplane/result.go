// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/smartnat/smartnat/pkg/policyrouting"
)

// Result describes the writes of an Apply.
type Result struct {
	// Changes describes the writes of packet rules. Repaired also lists routes, policy routing rules and kernel parameters, and
	// Took also covers their part.
	Changes
	// Sysctls lists the kernel parameters that were set or restored, by path.
	Sysctls []string
	// NotPermitted says which kernel parameters could not be set that no rule depends on, such as those that count traffic.
	NotPermitted error
	// Routing holds the changes to routes and policy routing rules.
	Routing policyrouting.Changes
	// Connections counts the connections that were ended because the state no longer makes them.
	Connections int
}

// Changes describes writes of packet rules.
type Changes struct {
	// Writes counts the transactions.
	Writes int
	// Chains counts the chains that were created, rewritten or deleted, and Rules those that were written or removed
	// individually.
	Chains, Rules int
	// Sets counts the sets of networks that were written or removed, and Members the members that were added or removed.
	Sets, Members int
	// Repaired lists our objects that another process removed or changed and that were restored.
	Repaired []Repair
	// Damaged means that rules differed from those last written, so that there may be connections that no State makes.
	Damaged bool
	// Took is the time that each part took.
	Took Took
	// InPlace means that the kernel holds all rules of the state. An error may still say that they are not in their best form.
	InPlace bool
}

func (c Changes) append(o Changes) Changes {
	return Changes{
		Writes: c.Writes + o.Writes, Chains: c.Chains + o.Chains, Rules: c.Rules + o.Rules, Sets: c.Sets + o.Sets, Members: c.Members + o.Members,
		Repaired: slices.Concat(c.Repaired, o.Repaired), Damaged: c.Damaged || o.Damaged,
		Took: c.Took.add(o.Took), InPlace: c.InPlace,
	}
}

// Empty reports whether nothing was written.
func (c Changes) Empty() bool { return c.Writes == 0 && c.Sets == 0 }

// Kind is the kind of object that was repaired.
type Kind string

// The kinds of objects that another process may change.
const (
	KindIPTables Kind = "iptables"
	KindIPSet    Kind = "ipset"
	KindNFTables Kind = "nftables"
	KindRoute    Kind = "route"
	KindIPRule   Kind = "ip_rule"
	KindSysctl   Kind = "sysctl"
)

// Kinds returns all kinds, for counters that start at zero.
func Kinds() []Kind {
	return []Kind{KindIPTables, KindIPSet, KindNFTables, KindRoute, KindIPRule, KindSysctl}
}

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

func (t Took) add(o Took) Took {
	return Took{
		Observe: t.Observe + o.Observe, Build: t.Build + o.Build, Diff: t.Diff + o.Diff, Restore: t.Restore + o.Restore, Cut: t.Cut + o.Cut,
	}
}

// Append returns the sum of both results. The other result is the later one.
func (r Result) Append(o Result) Result {
	sum := Result{
		Changes:     r.append(o.Changes),
		Sysctls:     slices.Concat(r.Sysctls, o.Sysctls),
		Routing:     r.Routing.Append(o.Routing),
		Connections: r.Connections + o.Connections,

		NotPermitted: errors.Join(r.NotPermitted, o.NotPermitted),
	}
	sum.InPlace = o.InPlace
	return sum
}

// Empty reports whether nothing changed.
func (r Result) Empty() bool {
	return r.Changes.Empty() && len(r.Sysctls) == 0 && r.Routing.Empty() && r.Connections == 0
}

// Routes counts the routes that were written or removed.
func (r Result) Routes() int { return r.Routing.Routes() }

// IPRules counts the policy routing rules that were written or removed.
func (r Result) IPRules() int { return r.Routing.Rules() }

// String returns text like "2 sysctls, 3 routes, 1 ip rule, 12 chains, 40 rules" and omits zero counts.
func (r Result) String() string {
	var parts []string
	for _, p := range []struct {
		n    int
		name string
	}{
		{len(r.Sysctls), "sysctl"}, {r.Routes(), "route"}, {r.IPRules(), "ip rule"}, {r.Chains, "chain"}, {r.Rules, "rule"},
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
