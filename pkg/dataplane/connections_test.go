// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package dataplane_test

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/iptables/iptablestest"
)

// TestConnections expects that EndStale compares connections with every state, and all of them whenever they may not match the
// last state.
func TestConnections(t *testing.T) {
	broken := errors.New("broken for the test")
	k := newKernel()
	d := start(k)
	other := full()
	other.Forwards[0].Backends = other.Forwards[0].Backends[:1]
	known := func(state gateway.State) *gateway.State { return &state }
	for _, step := range []struct {
		name   string
		before func()
		state  gateway.State
		since  *gateway.State
		// failing is the step that fails.
		failing string
		// stale is the number of connections that the kernel ends.
		stale int
	}{
		{name: "start", state: full(), stale: 3},
		{name: "no change", state: full(), since: known(full())},
		{name: "an endpoint disappears", state: other, since: known(full()), stale: 1},
		{name: "and comes back", state: full(), since: known(other)},
		{name: "verification", before: func() { d.Verify() }, state: full(), since: known(full())},
		{name: "another process removed rules", before: func() { dropTable(k, gateway.IPv4, "nat") }, state: full()},
		{name: "no change again", state: full(), since: known(full())},
		{name: "rules not written: ended connections may come back", state: gateway.State{}, since: known(full()), failing: "IPv4 nat"},
		{name: "rules written", state: gateway.State{}, stale: 2},
		{name: "conntrack fails", state: full(), failing: "end connections"},
		{name: "retry", state: full()},
		{name: "restart", before: func() { d = start(k) }, state: full()},
	} {
		k.Conntrack.Calls, k.Conntrack.Stale = nil, step.stale
		k.Fail = func(s string) error {
			if s == step.failing {
				return broken
			}
			return nil
		}
		if step.before != nil {
			step.before()
		}
		result, err := d.Apply(t.Context(), step.state)
		if step.failing != "" != errors.Is(err, broken) || step.failing == "" && err != nil {
			t.Errorf("%s: err = %v", step.name, err)
		}
		want := []iptablestest.EndStale{{Since: step.since, State: step.state}}
		if step.failing == "end connections" {
			want = nil
		}
		if diff := cmp.Diff(want, k.Conntrack.Calls, same...); diff != "" || result.Connections != step.stale {
			t.Errorf("%s: %d connections, want %d; arguments (-want +got):\n%s", step.name, result.Connections, step.stale, diff)
		}
	}
	k.Conntrack.Calls, k.Conntrack.Stale = nil, 4
	result, err := d.Cleanup(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]iptablestest.EndStale{{}}, k.Conntrack.Calls, same...); diff != "" || result.Connections != 4 {
		t.Errorf("cleanup: %s, arguments (-want +got):\n%s", result, diff)
	}
}

// TestConnectionsLeftForLater expects that Check requests an Apply for connections whose end was postponed.
func TestConnectionsLeftForLater(t *testing.T) {
	k := newKernel()
	d := start(k)
	state := full()
	if _, err := d.Apply(t.Context(), state); err != nil {
		t.Fatal(err)
	}
	for _, owed := range []bool{false, true} {
		k.Conntrack.IsPending = owed
		if due, err := d.Check(); due != owed || err != nil {
			t.Errorf("owed %t: Check = %t, %v", owed, due, err)
		}
	}
	k.Conntrack.Calls = nil
	if _, err := d.Apply(t.Context(), state); err != nil || len(k.Conntrack.Calls) != 1 {
		t.Errorf("%d calls, %v; want one", len(k.Conntrack.Calls), err)
	}
}

var same = cmp.Options{
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
}
