// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package conntrack

import (
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

// maxScopes is how many walks over the kernel's table are cheaper than one that brings along every connection of ours.
const maxScopes = 8

// staleSince is where connections may have become stale that were right for the state before.
func staleSince(since *gateway.State, state gateway.State) []scope {
	if since == nil {
		return []scope{{}}
	}
	now := byFrontend(state.Forwards)
	var scopes []scope
	for _, before := range since.Forwards {
		if after, found := now[before.Frontend]; !found || !sameConnections(before, after) {
			scopes = append(scopes, toFrontend(before.Frontend))
		}
	}
	before, after := newJudge(*since).egress, newJudge(state).egress
	for pod, external := range before {
		if after[pod] != external {
			scopes = append(scopes, scope{source: pod})
		}
	}
	return few(scopes)
}

// missedSince is where there may be flows that are older than the Forward that they are for.
func missedSince(since *gateway.State, state gateway.State) []scope {
	before := map[gateway.Frontend]gateway.Forward{}
	if since != nil {
		before = byFrontend(since.Forwards)
	}
	var scopes []scope
	for _, f := range state.Forwards {
		// Where there was a Forward without backends, flows were refused and so not remembered.
		if _, found := before[f.Frontend]; !found && f.Protocol == gateway.UDP && len(f.Backends) > 0 {
			scopes = append(scopes, toFrontend(f.Frontend))
		}
	}
	return few(scopes)
}

func byFrontend(forwards []gateway.Forward) map[gateway.Frontend]gateway.Forward {
	m := make(map[gateway.Frontend]gateway.Forward, len(forwards))
	for _, f := range forwards {
		m[f.Frontend] = f
	}
	return m
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
func sameConnections(a, b gateway.Forward) bool {
	return a.Shift == b.Shift && a.SourcesDeny == b.SourcesDeny && slices.Equal(a.Sources, b.Sources) &&
		slices.Equal(a.Backends, b.Backends) && slices.Equal(a.Draining, b.Draining)
}
