// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package conntrack

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/gateway/gatewaytest"
)

// TestWhatIsUrgent expects that only TCP to removed backends may be deferred.
func TestWhatIsUrgent(t *testing.T) {
	before := forward(public, tcp, 80, 80, pod1, pod2)
	before.Sources = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("203.0.113.0/24")}
	for _, tc := range []struct {
		name     string
		protocol gateway.Protocol
		change   func(f *gateway.Forward)
		// stale and urgent are the expected results.
		stale, urgent bool
	}{
		{"nothing", tcp, func(*gateway.Forward) {}, false, false},
		{"an endpoint is added", tcp, func(f *gateway.Forward) { f.Backends = gatewaytest.Backends(pod1, pod2, "10.244.1.9:8080") }, false, false},
		{"an endpoint is removed", tcp, func(f *gateway.Forward) { f.Backends = f.Backends[1:] }, true, false},
		{"all endpoints are removed", tcp, func(f *gateway.Forward) { f.Backends = nil }, true, false},
		{"an endpoint drains", tcp, func(f *gateway.Forward) { f.Backends, f.Draining = f.Backends[1:], f.Backends[:1] }, false, false},
		{"an endpoint of UDP is removed", udp, func(f *gateway.Forward) { f.Backends = f.Backends[1:] }, true, true},
		{"an endpoint of SCTP is removed", gateway.SCTP, func(f *gateway.Forward) { f.Backends = f.Backends[1:] }, true, true},
		{"a source was revoked", tcp, func(f *gateway.Forward) { f.Sources = f.Sources[1:] }, true, true},
		{"a source was revoked, and an endpoint is removed", tcp, func(f *gateway.Forward) { f.Sources, f.Backends = f.Sources[1:], f.Backends[1:] }, true, true},
		{"all sources were revoked", tcp, func(f *gateway.Forward) { f.Sources, f.SourcesDeny = nil, true }, true, true},
		{"the Mapping is deleted", tcp, nil, true, true},
		{"another Mapping takes the port", tcp, func(f *gateway.Forward) { f.Owner, f.Backends = "other/echo", gatewaytest.Backends("10.244.9.1:8080") }, true, true},
		{"another Mapping takes the port, to the same endpoints", tcp, func(f *gateway.Forward) { f.Owner = "other/echo" }, false, false},
	} {
		since := gatewaytest.With(before, func(f *gateway.Forward) { f.Protocol = tc.protocol })
		after := gateway.State{}
		if tc.change != nil {
			after = state(gatewaytest.With(since, tc.change))
		}
		one := state(since)
		if got := changedSince(&one, after); len(got.stale) > 0 != tc.stale || got.urgent != tc.urgent {
			t.Errorf("%s: stale %v, urgent %t; want %t, %t", tc.name, got.stale, got.urgent, tc.stale, tc.urgent)
		}
	}
	anywhere := state(gatewaytest.With(before, func(f *gateway.Forward) { f.AnyEndpoint = true }))
	if got := changedSince(&anywhere, state(gatewaytest.With(before, func(f *gateway.Forward) { f.Backends = nil }))); !got.urgent {
		t.Errorf("backends that are not proven to be pods may not be used any more: %+v", got)
	}
	leaving, others := egress(public, "10.244.1.2", "10.244.1.3"), egress(public, "10.244.1.3")
	if got := changedSince(&leaving, others); !got.urgent {
		t.Errorf("a pod that may not leave any more: %+v", got)
	}
	if got := changedSince(nil, gateway.State{}); !got.urgent {
		t.Errorf("nothing known: %+v", got)
	}
}

// TestWhatIsOlderThanItsForward expects a search for flows that are older than the rules whenever a Forward begins to lead them anywhere.
func TestWhatIsOlderThanItsForward(t *testing.T) {
	ready := forward(public, udp, 53, 53, pod1)
	empty := gatewaytest.With(ready, func(f *gateway.Forward) { f.Backends = nil })
	limited := gatewaytest.From(ready, "192.0.2.0/24")
	none := gateway.State{}
	for _, tc := range []struct {
		name          string
		before, after gateway.State
		missed        bool
	}{
		{"a Forward", none, state(ready), true},
		{"a Forward without backends", none, state(empty), false},
		{"the first backend", state(empty), state(ready), true},
		{"the first backend of TCP", state(asTCP(empty)), state(asTCP(ready)), false},
		{"another source", state(limited), state(ready), true},
		{"another backend", state(ready), state(forward(public, udp, 53, 53, pod1, pod2)), false},
		{"nothing", state(ready), state(ready), false},
		{"the end", state(ready), none, false},
	} {
		if got := changedSince(&tc.before, tc.after); len(got.missed) > 0 != tc.missed || tc.missed && !got.urgent {
			t.Errorf("%s: missed %v, urgent %t", tc.name, got.missed, got.urgent)
		}
	}
}

func asTCP(f *gateway.Forward) *gateway.Forward {
	return gatewaytest.With(f, func(f *gateway.Forward) { f.Protocol = tcp })
}

// TestWhatIsLeftForLater expects that deferred checks run at intervals, and that none is lost.
func TestWhatIsLeftForLater(t *testing.T) {
	at := func(port uint16) scope {
		return scope{protocol: tcp, destination: netip.MustParseAddr(public), port: port}
	}
	began := time.Now()
	c := New(gateway.DefaultOwnership())
	for _, step := range []struct {
		name    string
		after   time.Duration
		changed changes
		// checked holds the scopes that are checked, deferred those that are not yet.
		checked, deferred []scope
	}{
		{"the first after a pause", 0, changes{stale: []scope{at(1)}}, []scope{at(1)}, nil},
		{"soon after", maxDelay / 4, changes{stale: []scope{at(2)}}, nil, []scope{at(2)}},
		{"the same again, and another", maxDelay / 2, changes{stale: []scope{at(3), at(2)}}, nil, []scope{at(3), at(2)}},
		{"nothing new", maxDelay * 3 / 4, changes{}, nil, []scope{at(3), at(2)}},
		{"when it is time", maxDelay, changes{}, []scope{at(3), at(2)}, nil},
		{"soon after that", maxDelay * 3 / 2, changes{stale: []scope{at(4)}}, nil, []scope{at(4)}},
		{"something urgent", maxDelay * 7 / 4, changes{stale: []scope{at(5)}, urgent: true}, []scope{at(5), at(4)}, nil},
		{"soon after something urgent", maxDelay * 5 / 2, changes{stale: []scope{at(6)}}, nil, []scope{at(6)}},
		{"together with others", maxDelay * 3, changes{stale: []scope{at(7)}}, []scope{at(7), at(6)}, nil},
		{"nothing at all", maxDelay * 9, changes{}, nil, nil},
	} {
		got := c.take(step.changed, began.Add(step.after))
		same := cmp.Comparer(func(a, b scope) bool { return a == b })
		if diff := cmp.Diff(step.checked, got.stale, same); diff != "" {
			t.Errorf("%s: checked (-want +got):\n%s", step.name, diff)
		}
		if diff := cmp.Diff(step.deferred, c.deferred, same); diff != "" {
			t.Errorf("%s: owed (-want +got):\n%s", step.name, diff)
		}
	}
	for port := range uint16(2 * maxDeferred) {
		c.take(changes{stale: []scope{at(port + 1)}}, c.lastCheck)
	}
	if len(c.deferred) > maxDeferred {
		t.Errorf("%d scopes deferred, want at most %d", len(c.deferred), maxDeferred)
	}
}

// TestKernelEndsWhatWasLeftForLater expects that EndStale ends a connection to a backend that was added and removed between two
// checks, although neither State has the backend.
func TestKernelEndsWhatWasLeftForLater(t *testing.T) {
	tb := newTable(t)
	ours := gateway.DefaultOwnership().Forwarded().Value
	c := New(gateway.DefaultOwnership())
	one, two := state(forward(public, tcp, 80, 80, pod1)), state(forward(public, tcp, 80, 80, pod2))
	endStale := func(what string, since, now *gateway.State, want int) {
		t.Helper()
		if got, err := c.EndStale(t.Context(), since, *now); got != want || err != nil {
			t.Errorf("%s: cut %d, %v; want %d", what, got, err, want)
		}
	}
	tb.add(made(tcp, client, front, pod2), ours, answered, 0)
	endStale("start", nil, &one, 1)
	endStale("another backend", &one, &two, 0)
	tb.add(made(tcp, client, front, pod2), ours, answered, 0)
	endStale("the first one again", &two, &one, 0)
	if c.Pending() {
		t.Error("due too early")
	}
	c.lastCheck = c.lastCheck.Add(-maxDelay)
	if !c.Pending() {
		t.Error("not due")
	}
	endStale("when it is time", &one, &one, 1)
	if c.Pending() || len(tb.flows()) != 0 {
		t.Errorf("pending %t, left are %v", c.Pending(), tb.flows())
	}
}
