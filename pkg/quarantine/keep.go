// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package quarantine

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/smartnat/smartnat/pkg/gateway"
)

// compose returns want with each quarantined part replaced by what was in effect before and is still wanted.
func (q *Quarantine) compose(want gateway.State) gateway.State {
	if len(q.quarantined) == 0 {
		return want
	}
	state := want
	state.Forwards = make([]*gateway.Forward, 0, len(want.Forwards))
	for _, f := range want.Forwards {
		if r := q.quarantined[partOf(f.Owner, f.Address)]; r != nil {
			f = r.before.keep(f)
		}
		if f != nil {
			state.Forwards = append(state.Forwards, f)
		}
	}
	state.Egresses = nil
	for _, e := range want.Egresses {
		kept := true
		if r := q.quarantined[partOf(e.Owner, e.Address)]; r != nil {
			e, kept = r.before.keepEgress(e)
		}
		if kept {
			state.Egresses = append(state.Egresses, e)
		}
	}
	return state
}

// keep returns the previous version of a Forward, limited to sources that may connect now and to backends that are wanted
// now, or nil if there was none. It drops other backends because their addresses may belong to another pod by now.
func (p portion) keep(now *gateway.Forward) *gateway.Forward {
	i, found := slices.BinarySearchFunc(p.forwards, now, func(f, now *gateway.Forward) int { return f.Compare(now.Frontend) })
	if !found {
		return nil
	}
	before := p.forwards[i]
	kept := *before
	if !sourcesWithin(before, now) {
		kept.Sources, kept.SourcesDeny = now.Sources, now.SourcesDeny
	}
	kept.Backends, kept.Draining = nil, nil
	for _, b := range before.Backends {
		switch {
		case has(now.Backends, b):
			kept.Backends = append(kept.Backends, b)
		case has(now.Draining, b):
			kept.Draining = append(kept.Draining, b)
		}
	}
	for _, b := range before.Draining {
		if has(now.Backends, b) || has(now.Draining, b) {
			kept.Draining = append(kept.Draining, b)
		}
	}
	slices.SortFunc(kept.Draining, compareBackends)
	return &kept
}

func has(backends []gateway.Backend, b gateway.Backend) bool {
	_, found := slices.BinarySearchFunc(backends, b, compareBackends)
	return found
}

func compareBackends(a, b gateway.Backend) int {
	return cmp.Or(a.Address.Compare(b.Address), cmp.Compare(a.Port, b.Port))
}

// sourcesWithin reports whether every source that before allowed is allowed now. It returns false if unsure.
func sourcesWithin(before, now *gateway.Forward) bool {
	switch {
	case before.SourcesDeny:
		return true
	case now.SourcesDeny:
		return false
	case len(now.Sources) == 0:
		return true
	case len(before.Sources) == 0:
		return false
	}
	return !slices.ContainsFunc(before.Sources, func(b netip.Prefix) bool {
		return !slices.ContainsFunc(now.Sources, func(n netip.Prefix) bool { return n.Bits() <= b.Bits() && n.Contains(b.Addr()) })
	})
}

// keepEgress returns the previous version of an Egress, limited to pods that are wanted now, and whether any pods are left.
func (p portion) keepEgress(now gateway.Egress) (gateway.Egress, bool) {
	i := slices.IndexFunc(p.egresses, func(e gateway.Egress) bool { return e.Address == now.Address && e.Uplink == now.Uplink })
	if i < 0 {
		return gateway.Egress{}, false
	}
	kept := p.egresses[i]
	kept.Sources = slices.DeleteFunc(slices.Clone(kept.Sources), func(a netip.Addr) bool {
		_, wanted := slices.BinarySearchFunc(now.Sources, a, netip.Addr.Compare)
		return !wanted
	})
	return kept, len(kept.Sources) > 0
}
