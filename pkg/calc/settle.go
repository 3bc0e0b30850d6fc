// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package calc

import (
	"cmp"
	"slices"
	"strings"

	"github.com/smartnat/smartnat/apis/smartnat/conflicts"
	"github.com/smartnat/smartnat/apis/smartnat/grants"
	"github.com/smartnat/smartnat/pkg/finding"
	"github.com/smartnat/smartnat/pkg/gateway"
)

// resolve computes what the dirty entries ask for, regardless of other Mappings.
func (c *Calculator) resolve(r *run) {
	calculation := &calculation{cfg: c.cfg, facts: c.facts, serviceIndex: &c.objects, granted: &c.grants, read: map[readKey]*serviceEndpoints{}, named: map[allowance]*gateway.Allowance{}}
	for _, e := range r.dirty {
		before := *e
		calculation.resolve(e)
		r.withdraw(before.wants)
		r.unsettled = append(r.unsettled, e)
		e.unsettled, e.findings, e.refusals = true, before.findings, before.refusals
		r.egressChanged = r.egressChanged || len(before.egress)+len(e.egress) > 0
		r.resolvedChanged = r.resolvedChanged || !slices.Equal(before.resolved.Addresses, e.resolved.Addresses) ||
			!slices.Equal(before.resolved.Uplinks, e.resolved.Uplinks)
		r.localChanged = r.localChanged || !slices.Equal(before.local, e.local)
		r.recordUsage(e.mapping.Namespace, before.usage, e.usage)
		e.over = before.over // until it is settled again
		switch {
		case slices.EqualFunc(before.wants, e.wants, func(x, y want) bool { return x.sameRequest(&y) }):
			e.wants = before.wants // their Forwards stay, so that no later step has to compare them
		case slices.EqualFunc(before.wants, e.wants, func(x, y want) bool { return x.sameClaim(&y) }):
			for i := range e.wants {
				e.wants[i].share, e.wants[i].refused = before.wants[i].share, before.wants[i].refused
			}
		default:
			r.portsChanged = true
		}
	}
}

// settlePorts gives each port of a Frontend to the first Mapping that asks.
func (c *Calculator) settlePorts(r *run) {
	if !r.portsChanged {
		return
	}
	claims, ledger := conflicts.Owners{}, grants.Ledger{}
	for _, t := range c.turns() {
		w := &t.entry.wants[t.want]
		if why := c.grants.take(ledger, w, t.entry.mapping.Namespace); why != w.refused {
			r.markUnsettled(t.entry)
			w.refused = why
		}
		if w.refused != "" {
			continue
		}
		share := claims.Take(w.claim(), t.entry.mapping)
		if share.Whole() && w.share.Whole() {
			continue
		}
		r.markUnsettled(t.entry)
		// The finding may change even if the share stays: the winner may have another version.
		w.take(share)
	}
}

// turn is a want of an entry.
type turn struct {
	entry *entry
	want  int
	rank  rank
}

// turns returns the wants in the order in which they may take ports. An excluded Mapping takes none.
func (c *Calculator) turns() []turn {
	var turns []turn
	sorted := true
	for _, e := range c.entries {
		if e.over != nil {
			continue
		}
		for i := range e.wants {
			next := turn{e, i, e.wants[i].rank()}
			sorted = sorted && (len(turns) == 0 || turns[len(turns)-1].rank.compare(next.rank) <= 0)
			turns = append(turns, next)
		}
	}
	if !sorted {
		slices.SortStableFunc(turns, func(a, b turn) int { return a.rank.compare(b.rank) })
	}
	return turns
}

// settleEgress gives each pod to the first Mapping that asks.
func (c *Calculator) settleEgress(r *run) {
	if !r.egressChanged {
		return
	}
	claims := egressClaims{}
	for _, e := range c.entries {
		if len(e.egress) > 0 {
			claims.claimPods(e)
			r.markUnsettled(e)
		}
	}
	for _, e := range c.entries {
		claims.claimAbsent(e)
	}
	c.state.Egresses, c.state.Absent.Egresses = egresses(c.entries)
}

// publish puts the Forwards and Findings of unsettled entries into the result.
func (c *Calculator) publish(r *run) {
	for _, e := range r.unsettled {
		e.unsettled = false
		for i := range e.wants {
			w := &e.wants[i]
			w.divide()
			if w.listed = w.place != nowhere && e.over == nil && w.refused == ""; w.listed {
				list := r.list(w.place)
				list.Added = append(list.Added, w.forwards()...)
			}
		}
		before, refused := e.findings, e.refusals
		e.collectFindings()
		e.collectRefusals()
		r.findingsChanged = r.findingsChanged || !slices.Equal(before, e.findings)
		r.refusalsChanged = r.refusalsChanged || !slices.Equal(refused, e.refusals)
	}
	if r.findingsChanged {
		c.findings = slices.Concat(c.aboutHost, findings(c.entries))
	}
	if r.refusalsChanged {
		c.refused = refusedOf(c.entries)
	}
	if r.resolvedChanged {
		c.resolved = resolvedOf(c.entries)
	}
	c.state.Forwards = r.here.Apply(c.state.Forwards, compareForwards)
	c.state.Absent.Forwards = r.absent.Apply(c.state.Absent.Forwards, compareForwards)
}

func compareForwards(a, b *gateway.Forward) int { return a.Compare(b.Frontend) }

// findings returns the Findings of all entries, sorted by Mapping. Entries come sorted by age.
func findings(entries []*entry) []finding.Finding {
	var reporting []*entry
	n := 0
	for _, e := range entries {
		if len(e.findings) > 0 {
			reporting, n = append(reporting, e), n+len(e.findings)
		}
	}
	slices.SortFunc(reporting, func(a, b *entry) int { // names are unique
		return cmp.Or(strings.Compare(a.mapping.Namespace, b.mapping.Namespace), strings.Compare(a.mapping.Name, b.mapping.Name))
	})
	all := make([]finding.Finding, 0, n)
	for _, e := range reporting {
		all = append(all, e.findings...)
	}
	return all
}

// egresses returns the Egresses with addresses that are here, and with those that are absent.
func egresses(entries []*entry) (here, absent []gateway.Egress) {
	for _, e := range entries {
		for _, egress := range e.egresses {
			if egress.Uplink != 0 {
				here = append(here, egress)
			} else {
				absent = append(absent, egress)
			}
		}
	}
	for _, list := range [][]gateway.Egress{here, absent} {
		slices.SortFunc(list, func(a, b gateway.Egress) int {
			return cmp.Or(strings.Compare(a.Owner, b.Owner), a.Address.Compare(b.Address))
		})
	}
	return here, absent
}
