// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package conntrack

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

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

// maxScopes is how many walks over the kernel's table are cheaper than one that brings along every connection of ours.
const maxScopes = 8

// changes are where connections may not be what the state makes any more that were right for the state before.
type changes struct {
	// stale are where connections of ours may have become wrong, missed where flows may be older than their Forward.
	stale, missed []scope
}

// changedSince compares two States, whose Forwards are sorted; nil means that nothing is known to have been right.
func changedSince(since *gateway.State, state gateway.State) changes {
	var c changes
	var before gateway.State
	if since != nil {
		before = *since
	}
	for a, b := before.Forwards, state.Forwards; len(a) > 0 || len(b) > 0; {
		switch order := compareFirst(a, b); {
		case order < 0:
			c.stale, a = append(c.stale, toFrontend(a[0].Frontend)), a[1:]
		case order > 0:
			// Where there was a Forward without backends, flows were refused and so not remembered.
			if b[0].Protocol == gateway.UDP && len(b[0].Backends) > 0 {
				c.missed = append(c.missed, toFrontend(b[0].Frontend))
			}
			b = b[1:]
		default:
			if !sameConnections(&a[0], &b[0]) {
				c.stale = append(c.stale, toFrontend(a[0].Frontend))
			}
			a, b = a[1:], b[1:]
		}
	}
	c.stale = append(c.stale, changedEgress(before.Egresses, state.Egresses)...)
	if since == nil {
		c.stale = []scope{{}}
	}
	c.stale, c.missed = few(c.stale), few(c.missed)
	return c
}

// compareFirst orders by frontend; behind the end of a list comes everything.
func compareFirst(a, b []gateway.Forward) int {
	switch {
	case len(a) == 0:
		return 1
	case len(b) == 0:
		return -1
	}
	x, y := &a[0].Frontend, &b[0].Frontend
	if order := x.Address.Compare(y.Address); order != 0 {
		return order
	}
	return cmp.Or(strings.Compare(string(x.Protocol), string(y.Protocol)),
		cmp.Compare(x.Ports.First, y.Ports.First), cmp.Compare(x.Ports.Last, y.Ports.Last))
}

// changedEgress is where pods leave with another address than before.
func changedEgress(before, after []gateway.Egress) []scope {
	if slices.EqualFunc(before, after, func(a, b gateway.Egress) bool { return a.Address == b.Address && same(a.Sources, b.Sources) }) {
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

func few(scopes []scope) []scope {
	if len(scopes) > maxScopes {
		return []scope{{}}
	}
	return scopes
}

func toFrontend(f gateway.Frontend) scope {
	s := scope{protocol: f.Protocol, destination: f.Address}
	if f.Ports.Single() {
		s.port = f.Ports.First
	}
	return s
}

// sameConnections reports whether two Forwards of a frontend let the same connections be.
func sameConnections(a, b *gateway.Forward) bool {
	return a.Shift == b.Shift && a.SourcesDeny == b.SourcesDeny && same(a.Sources, b.Sources) &&
		same(a.Backends, b.Backends) && same(a.Draining, b.Draining)
}

// same compares slices, which are mostly one and the same.
func same[T comparable](a, b []T) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0] || slices.Equal(a, b))
}
