// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package conntrack

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/smartnat/smartnat/pkg/gateway"
)

// scope selects connections to check. The empty scope selects all.
type scope struct {
	// protocol and port are those of the original destination. Empty and 0 mean any.
	protocol gateway.Protocol
	port     uint16
	// source and destination are the addresses of the first packet. Invalid means any.
	source, destination netip.Addr
}

// changes selects connections that matched the state before and may not match the new one.
type changes struct {
	// stale selects marked connections that may be wrong now, missed flows that may be older than their Forward, and leaving
	// those of pods that may be older than their external address, which is certain only until the first answer.
	stale, missed, leaving []scope
	// urgent means that one of them does harm while it exists. A TCP connection to a removed backend does none: its ends only
	// learn later that it is over. It does if another Mapping has the Frontend now, or if backends have to be pods now, because such a
	// backend is still there.
	urgent bool
}

// changedSince compares two States, whose Forwards are sorted. A nil State means that any connection may be wrong.
func changedSince(since *gateway.State, state gateway.State) changes {
	var c changes
	var before gateway.State
	if since != nil {
		before = *since
	}
	// Connections by addresses that are absent stay, like those by addresses on this host.
	for a, b := range gateway.DifferingForwards(everywhere(before), everywhere(state)) {
		switch {
		case b == nil:
			c.stale, c.urgent = append(c.stale, toFrontend(a.Frontend)), true
		case a != nil:
			if admits, leads := admitsAll(a, b), leadsOn(a, b); !admits || !leads {
				c.stale = append(c.stale, toFrontend(a.Frontend))
				c.urgent = c.urgent || !admits || a.Protocol != gateway.TCP || a.Owner != b.Owner || a.AnyEndpoint && !b.AnyEndpoint
			}
		}
	}
	for a, b := range gateway.DifferingForwards(before.Forwards, state.Forwards) {
		// While it has no backends, or the source is not allowed, no flow begins. One that is older than the Forward stays in the table.
		if b != nil && b.Protocol == gateway.UDP && len(b.Backends) > 0 &&
			(a == nil || len(a.Backends) == 0 || a.SourcesDeny != b.SourcesDeny || !same(a.Sources, b.Sources)) {
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

// everywhere returns the Forwards of addresses on this host and of those that are absent, sorted. They do not overlap.
func everywhere(state gateway.State) []*gateway.Forward {
	here, absent := state.Forwards, state.Absent.Forwards
	if len(absent) == 0 {
		return here
	}
	all := make([]*gateway.Forward, 0, len(here)+len(absent))
	for h, a := range gateway.DifferingForwards(here, absent) {
		all = append(all, cmp.Or(h, a))
	}
	return all
}

// changedEgress selects the pods whose external address changed.
func changedEgress(before, after gateway.State) []scope {
	unchanged := func(before, after []gateway.Egress) bool {
		return slices.EqualFunc(before, after, func(a, b gateway.Egress) bool { return a.Address == b.Address && same(a.Sources, b.Sources) })
	}
	if unchanged(before.Egresses, after.Egresses) && unchanged(before.Absent.Egresses, after.Absent.Egresses) {
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

// atMost returns the scopes, or one that includes all of them if there are more than most.
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
	case !all.source.IsValid() && !all.destination.IsValid(): // The kernel compares protocols only within a family.
		all = scope{}
	case all.protocol == "":
		all.port = 0
	}
	return []scope{all}
}

// common returns the value of two scopes if it is equal, or the zero value for any.
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

// admitsAll reports whether all clients that a Forward admitted may still connect after the change, to the same ports.
func admitsAll(before, after *gateway.Forward) bool {
	return before.Shift == after.Shift && before.SourcesDeny == after.SourcesDeny && allowsAll(before.Sources, after.Sources)
}

// leadsOn reports whether connections may stay on every backend of the Forward after the change.
func leadsOn(before, after *gateway.Forward) bool {
	if same(before.Backends, after.Backends) && same(before.Draining, after.Draining) {
		return true
	}
	lead, led := after.Backends, before.Backends
	if before.Protocol == gateway.TCP { // Connections of other protocols were ended when the endpoint started to drain.
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

// allowsAll reports whether every source that was allowed still is. It may return false for lists that differ only in form.
func allowsAll(before, after []netip.Prefix) bool { return len(after) == 0 || same(before, after) }

// same compares slices, most of which share their memory.
func same[T comparable](a, b []T) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0] || slices.Equal(a, b))
}
