// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package calc

import (
	"cmp"
	"slices"
	"strings"

	"github.com/smartnat/smartnat/apis/smartnat/conflicts"
	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/pkg/finding"
	"github.com/smartnat/smartnat/pkg/gateway"
)

// run is the state of one calculation.
type run struct {
	doubtful []*entry
	// changed are the entries whose Forwards have to be settled again.
	changed []*entry
	// ports is set if requests for ports changed, egress if requests for egress did, about if Findings did.
	ports, egress, about bool
	// used is the change of usage by namespace.
	used map[string]usage
	// here and away are the changes of the State's Forwards, and of its Forwards for addresses that are away.
	here, away listChange
}

// listChange has the Forwards that leave a list and those that join it. A changed Forward does both.
type listChange struct {
	gone []gateway.Frontend
	come []*gateway.Forward
}

// list returns the change of the list for a place.
func (r *run) list(p place) *listChange {
	if p == here {
		return &r.here
	}
	return &r.away
}

// doubt marks entries to be resolved again.
func (r *run) doubt(entries ...*entry) {
	for _, e := range entries {
		if !e.doubtful {
			e.doubtful = true
			r.doubtful = append(r.doubtful, e)
		}
	}
}

// leave removes an entry.
func (r *run) leave(e *entry) {
	r.withdraw(e.wants)
	r.use(e.mapping.Namespace, e.usage, usage{})
	r.ports = r.ports || len(e.wants) > 0
	r.egress = r.egress || len(e.egress) > 0
	r.about = r.about || len(e.findings) > 0
}

// withdraw removes the Forwards of wants from the State.
func (r *run) withdraw(wants []want) {
	for i := range wants {
		if w := &wants[i]; w.listed {
			w.listed = false
			list := r.list(w.place)
			for _, f := range w.forwards() {
				list.gone = append(list.gone, f.Frontend)
			}
		}
	}
}

// change marks an entry to be settled again.
func (r *run) change(e *entry) {
	if !e.changed {
		e.changed = true
		r.changed = append(r.changed, e)
		r.withdraw(e.wants)
	}
}

// resolve resolves the doubtful entries.
func (r *run) resolve(c *calculation) {
	for _, e := range r.doubtful {
		before := *e
		c.resolve(e)
		r.withdraw(before.wants)
		r.changed = append(r.changed, e)
		e.changed, e.findings = true, before.findings
		r.egress = r.egress || len(before.egress)+len(e.egress) > 0
		r.use(e.mapping.Namespace, before.usage, e.usage)
		e.over = before.over // until it is settled again
		if slices.EqualFunc(before.wants, e.wants, func(x, y want) bool { return x.asksFor(&y) }) {
			for i := range e.wants {
				e.wants[i].share = before.wants[i].share
			}
		} else {
			r.ports = true
		}
	}
}

// settlePorts gives each port of a Frontend to the first Mapping that asks.
func (r *run) settlePorts(entries []*entry) {
	claims := conflicts.Claims{}
	for _, yields := range []bool{false, true} {
		for _, e := range entries {
			if e.over != nil {
				continue // an excluded Mapping takes no port
			}
			for i := range e.wants {
				w := &e.wants[i]
				if w.yields() != yields {
					continue
				}
				share := claims.Take(w.claim(), e.mapping)
				if share.Whole() && w.share.Whole() {
					continue
				}
				r.change(e)
				// The finding may change even if the share stays: the winner may have another version.
				w.take(share)
			}
		}
	}
}

func (w *want) claim() conflicts.Ports {
	return conflicts.Ports{Address: w.Address, Protocol: v1alpha1.Protocol(w.Protocol), First: w.Ports.First, Last: w.Ports.Last}
}

// settleEgress gives each pod to the first Mapping that asks.
func (r *run) settleEgress(entries []*entry) {
	claims := egressClaims{}
	for _, e := range entries {
		if len(e.egress) > 0 {
			claims.claimPods(e)
			r.change(e)
		}
	}
	for _, e := range entries {
		claims.letBe(e)
	}
}

// finish puts the Forwards of changed entries into the State.
func (r *run) finish() {
	for _, e := range r.changed {
		e.changed = false
		for i := range e.wants {
			w := &e.wants[i]
			w.divide()
			if w.listed = w.place != nowhere && e.over == nil; w.listed {
				list := r.list(w.place)
				list.come = append(list.come, w.forwards()...)
			}
		}
		before := e.findings
		e.gather()
		r.about = r.about || !slices.Equal(before, e.findings)
	}
}

// findings returns the Findings of all entries, sorted by Mapping. Entries come sorted by age.
func findings(entries []*entry) []finding.Finding {
	var all []finding.Finding
	for _, e := range entries {
		all = append(all, e.findings...)
	}
	slices.SortStableFunc(all, func(a, b finding.Finding) int {
		return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
	})
	return all
}

// egresses returns the Egresses with addresses that are here, and with those that are away.
func egresses(entries []*entry) (here, away []gateway.Egress) {
	for _, e := range entries {
		for _, egress := range e.egresses {
			if egress.Uplink != 0 {
				here = append(here, egress)
			} else {
				away = append(away, egress)
			}
		}
	}
	for _, list := range [][]gateway.Egress{here, away} {
		slices.SortFunc(list, func(a, b gateway.Egress) int {
			return cmp.Or(strings.Compare(a.Owner, b.Owner), a.Address.Compare(b.Address))
		})
	}
	return here, away
}

// apply returns sorted forwards without those in gone and with those in come.
func (l *listChange) apply(forwards []*gateway.Forward) []*gateway.Forward {
	gone, come := l.gone, l.come
	if len(gone)+len(come) == 0 {
		return forwards
	}
	slices.SortFunc(gone, gateway.Frontend.Compare)
	slices.SortFunc(come, func(a, b *gateway.Forward) int { return a.Compare(b.Frontend) })
	all := make([]*gateway.Forward, 0, len(forwards)-len(gone)+len(come))
	upTo := func(f gateway.Frontend) {
		i, _ := slices.BinarySearchFunc(forwards, f, func(g *gateway.Forward, f gateway.Frontend) int { return g.Compare(f) })
		all, forwards = append(all, forwards[:i]...), forwards[i:]
	}
	for len(gone)+len(come) > 0 {
		if len(come) == 0 || len(gone) > 0 && gone[0].Compare(come[0].Frontend) <= 0 {
			upTo(gone[0])
			forwards, gone = forwards[1:], gone[1:]
		} else {
			upTo(come[0].Frontend)
			all, come = append(all, come[0]), come[1:]
		}
	}
	if all = append(all, forwards...); len(all) == 0 {
		return nil
	}
	return all
}
