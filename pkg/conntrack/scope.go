// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package conntrack

import (
	"cmp"
	"iter"
	"net/netip"
	"slices"

	"github.com/smartnat/smartnat/pkg/gateway"
)

// scope narrows down which connections are looked at. The empty one is all of them.
type scope struct {
	// protocol and port are those that connections were made to; empty and 0 mean any.
	protocol gateway.Protocol
	port     uint16
	// source and destination are those of the first packet; invalid means any.
	source, destination netip.Addr
}

// changes are where connections may not be what the state makes any more that were right for the state before.
type changes struct {
	// stale are where connections of ours may have become wrong, missed where flows may be older than their Forward, leaving where
	// those of pods may be older than their external address, which only shows while nothing has answered.
	stale, missed, leaving []scope
	// urgent is set when one of them does harm as long as it lives. A connection of TCP to a backend that went does not: who is
	// at its ends only learns later that it is over.
	urgent bool
}

// changedSince compares two States, whose Forwards are sorted; nil means that nothing is known to have been right.
func changedSince(since *gateway.State, state gateway.State) changes {
	var c changes
	var before gateway.State
	if since != nil {
		before = *since
	}
	// What an address has made that is away is let be, as what one makes that is here.
	for a, b := range both(everywhere(before), everywhere(state)) {
		switch {
		case b == nil:
			c.stale, c.urgent = append(c.stale, toFrontend(a.Frontend)), true
		case a != nil:
			if admits, leads := admitsAll(a, b), leadsOn(a, b); !admits || !leads {
				c.stale = append(c.stale, toFrontend(a.Frontend))
				c.urgent = c.urgent || !admits || a.Protocol != gateway.TCP
			}
		}
	}
	for a, b := range both(before.Forwards, state.Forwards) {
		// Where there was a Forward without backends, flows were refused and so not remembered.
		if a == nil && b.Protocol == gateway.UDP && len(b.Backends) > 0 {
			c.missed, c.urgent = append(c.missed, toFrontend(b.Frontend)), true
		}
	}
	if egress := changedEgress(before, state); len(egress) > 0 {
		c.stale, c.urgent = append(c.stale, egress...), true
	}
	if since == nil {
		c.stale, c.urgent = []scope{{}}, true
		if len(state.Egresses) > 0 {
			c.leaving = []scope{{}}
		}
	}
	return c
}

// everywhere are the Forwards of addresses that are here and of those that are away, sorted. None overlaps another.
func everywhere(state gateway.State) []*gateway.Forward {
	here, away := state.Forwards, state.Away.Forwards
	if len(away) == 0 {
		return here
	}
	all := make([]*gateway.Forward, 0, len(here)+len(away))
	for h, a := range both(here, away) {
		all = append(all, cmp.Or(h, a))
	}
	return all
}

// both walks sorted lists side by side, and yields those of the same frontend together, others with nil, and none that both
// have, as they do most.
func both(a, b []*gateway.Forward) iter.Seq2[*gateway.Forward, *gateway.Forward] {
	return func(yield func(a, b *gateway.Forward) bool) {
		for len(a) > 0 || len(b) > 0 {
			if len(a) > 0 && len(b) > 0 && a[0] == b[0] {
				a, b = a[1:], b[1:]
				continue
			}
			var x, y *gateway.Forward
			order := compareFirst(a, b)
			if order <= 0 {
				x, a = a[0], a[1:]
			}
			if order >= 0 {
				y, b = b[0], b[1:]
			}
			if !yield(x, y) {
				return
			}
		}
	}
}

// compareFirst orders by frontend; behind the end of a list comes everything.
func compareFirst(a, b []*gateway.Forward) int {
	switch {
	case len(a) == 0:
		return 1
	case len(b) == 0:
		return -1
	}
	return a[0].Compare(b[0].Frontend)
}

// changedEgress is where pods leave with another address than before.
func changedEgress(before, after gateway.State) []scope {
	unchanged := func(before, after []gateway.Egress) bool {
		return slices.EqualFunc(before, after, func(a, b gateway.Egress) bool { return a.Address == b.Address && same(a.Sources, b.Sources) })
	}
	if unchanged(before.Egresses, after.Egresses) && unchanged(before.Away.Egresses, after.Away.Egresses) {
		return nil
	}
	now := egressAddresses(after)
	var scopes []scope
	for pod, external := range egressAddresses(before) {
		if now[pod] != external {
			scopes = append(scopes, scope{source: pod})
		}
	}
	return scopes
}

// atMost returns the scopes, or one that holds them all where they are more than that.
func atMost(most int, scopes []scope) []scope {
	if len(scopes) <= most {
		return scopes
	}
	all := scopes[0]
	for _, s := range scopes[1:] {
		all.protocol, all.port = common(all.protocol, s.protocol), common(all.port, s.port)
		all.source, all.destination = common(all.source, s.source), common(all.destination, s.destination)
	}
	switch {
	case !all.source.IsValid() && !all.destination.IsValid(): // The kernel compares protocols within a family alone.
		all = scope{}
	case all.protocol == "":
		all.port = 0
	}
	return []scope{all}
}

// common returns what two scopes agree on, or any.
func common[T comparable](a, b T) T {
	if a == b {
		return a
	}
	var whatever T
	return whatever
}

func toFrontend(f gateway.Frontend) scope {
	s := scope{protocol: f.Protocol, destination: f.Address}
	if f.Ports.Single() {
		s.port = f.Ports.First
	}
	return s
}

// admitsAll reports whether everybody who could connect by a Forward still can by the one after of the same frontend, and to
// the same ports.
func admitsAll(before, after *gateway.Forward) bool {
	return before.Shift == after.Shift && before.SourcesDeny == after.SourcesDeny && allowsAll(before.Sources, after.Sources)
}

// leadsOn reports whether each backend that a Forward led to is one that connections may still lead to with the one after.
func leadsOn(before, after *gateway.Forward) bool {
	if same(before.Backends, after.Backends) && same(before.Draining, after.Draining) {
		return true
	}
	lead, led := after.Backends, before.Backends
	if before.Protocol == gateway.TCP { // That of others was ended when the endpoint began to drain.
		lead, led = slices.Concat(lead, after.Draining), slices.Concat(led, before.Draining)
	}
	stay := make(map[gateway.Backend]struct{}, len(lead))
	for _, b := range lead {
		stay[b] = struct{}{}
	}
	return !slices.ContainsFunc(led, func(b gateway.Backend) bool {
		_, stays := stay[b]
		return !stays
	})
}

// allowsAll reports whether every source that was allowed still is, as far as that is seen at once.
func allowsAll(before, after []netip.Prefix) bool { return len(after) == 0 || same(before, after) }

// same compares slices, which are mostly one and the same.
func same[T comparable](a, b []T) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0] || slices.Equal(a, b))
}
