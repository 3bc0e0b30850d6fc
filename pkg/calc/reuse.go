// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package calc

import (
	"slices"

	"k8s.io/apimachinery/pkg/types"

	"github.com/smartnat/smartnat/apis/smartnat/conflicts"
	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/pkg/delta"
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/objects"
)

// run is the state of one calculation.
type run struct {
	// dirty are the entries whose requests have to be resolved again, unsettled those whose results have to be settled again.
	dirty, unsettled []*entry
	// portsChanged is set if requests for ports changed, egressChanged if requests for egress did, resolvedChanged if addresses of
	// uplinks did, localChanged if pods of this node that may see clients did, findingsChanged if Findings did, refusalsChanged if what is
	// refused did.
	portsChanged, egressChanged, resolvedChanged, localChanged, findingsChanged, refusalsChanged bool
	// usage is the change of usage by namespace.
	usage map[string]usage
	// here and absent are the changes of the State's Forwards, and of its Forwards for addresses that are absent.
	here, absent delta.Change[*gateway.Forward]
}

// update replaces the input, and marks the entries whose requests have to be resolved again.
func (c *Calculator) update(r *run, snapshot objects.Snapshot, host gateway.Host) {
	before := c.facts
	var factsChanged bool
	r.findingsChanged, factsChanged = c.updateHost(host)
	services := c.objects.update(snapshot)
	c.apiServers()
	c.updateMappings(snapshot.Mappings, r)
	regranted := c.grants.update(snapshot)
	switch {
	case factsChanged:
		r.markDirty(c.entries...)
	case c.facts != before && !c.facts.ports.equal(before.ports):
		for _, e := range c.entries {
			if c.facts.ports.affects(e.wants, before.ports, c.facts.held) {
				r.markDirty(e)
			}
		}
	}
	if regranted != nil {
		for _, e := range c.entries {
			if regranted(e.mapping.Namespace) {
				r.markDirty(e)
			}
		}
	}
	for service := range services {
		r.markDirty(c.entriesNaming(service)...)
	}
}

// updateMappings updates the entries, one for each Mapping, sorted by age: the order in which they may take ports.
func (c *Calculator) updateMappings(mappings []*v1alpha1.Mapping, r *run) {
	change := delta.Diff(c.mappings, mappings)
	c.mappings = mappings
	if change.Empty() {
		return
	}
	c.byService = nil
	removed := map[*v1alpha1.Mapping]int{}
	for _, m := range change.Removed {
		removed[m]++
	}
	// A new version of a Mapping keeps its entry.
	reusable := map[types.NamespacedName][]*entry{}
	c.entries = slices.DeleteFunc(c.entries, func(e *entry) bool {
		if removed[e.mapping] == 0 {
			return false
		}
		removed[e.mapping]--
		reusable[conflicts.Key(e.mapping)] = append(reusable[conflicts.Key(e.mapping)], e)
		return true
	})
	for _, m := range change.Added {
		e := &entry{}
		if same := reusable[conflicts.Key(m)]; len(same) > 0 {
			e, reusable[conflicts.Key(m)] = same[0], same[1:]
			r.portsChanged = r.portsChanged || !e.mapping.CreationTimestamp.Equal(&m.CreationTimestamp)
		}
		e.mapping = m
		c.entries = append(c.entries, e)
		r.markDirty(e)
	}
	for _, same := range reusable {
		for _, e := range same {
			r.remove(e)
		}
	}
	slices.SortFunc(c.entries, func(x, y *entry) int { return conflicts.Compare(x.mapping, y.mapping) })
}

// entriesNaming returns the entries of the Mappings that name a Service.
func (c *Calculator) entriesNaming(service serviceKey) []*entry {
	if c.byService == nil {
		c.byService = make(map[serviceKey][]*entry, len(c.entries))
		for _, e := range c.entries {
			key := serviceNamedBy(e.mapping)
			c.byService[key] = append(c.byService[key], e)
		}
	}
	return c.byService[service]
}

// list returns the change of the list for a place.
func (r *run) list(p place) *delta.Change[*gateway.Forward] {
	if p == here {
		return &r.here
	}
	return &r.absent
}

// markDirty marks entries to be resolved again.
func (r *run) markDirty(entries ...*entry) {
	for _, e := range entries {
		if !e.dirty {
			e.dirty = true
			r.dirty = append(r.dirty, e)
		}
	}
}

// remove removes an entry.
func (r *run) remove(e *entry) {
	r.withdraw(e.wants)
	r.recordUsage(e.mapping.Namespace, e.usage, usage{})
	r.portsChanged = r.portsChanged || len(e.wants) > 0
	r.egressChanged = r.egressChanged || len(e.egress) > 0
	r.resolvedChanged = r.resolvedChanged || len(e.resolved.Addresses) > 0
	r.localChanged = r.localChanged || len(e.local) > 0
	r.findingsChanged = r.findingsChanged || len(e.findings) > 0
	r.refusalsChanged = r.refusalsChanged || len(e.refusals) > 0
}

// withdraw removes the Forwards of wants from the State.
func (r *run) withdraw(wants []want) {
	for i := range wants {
		if w := &wants[i]; w.listed {
			w.listed = false
			list := r.list(w.place)
			list.Removed = append(list.Removed, w.forwards()...)
		}
	}
}

// markUnsettled marks an entry to be settled again.
func (r *run) markUnsettled(e *entry) {
	if !e.unsettled {
		e.unsettled = true
		r.unsettled = append(r.unsettled, e)
		r.withdraw(e.wants)
	}
}

// recordUsage records a change of the usage of a namespace.
func (r *run) recordUsage(namespace string, before, now usage) {
	if r.usage == nil {
		r.usage = map[string]usage{}
	}
	r.usage[namespace] = r.usage[namespace].plus(now).minus(before)
}
