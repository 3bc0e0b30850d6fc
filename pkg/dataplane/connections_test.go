// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package dataplane_test

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/smartnat/smartnat/pkg/dataplane/dataplanetest"
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/netfilter"
)

// Connections are held against every state, and against the whole of it after every doubt.
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
		// failing is a step that fails.
		failing string
		// stale are as many as the kernel ends.
		stale int
	}{
		{name: "start", state: full(), stale: 3},
		{name: "no change", state: full(), since: known(full())},
		{name: "an endpoint went", state: other, since: known(full()), stale: 1},
		{name: "and came back", state: full(), since: known(other)},
		{name: "verification", before: func() { d.Verify() }, state: full(), since: known(full())},
		{name: "rules that somebody removed", before: func() { dropTable(k, netfilter.IPv4, "nat") }, state: full()},
		{name: "no change again", state: full(), since: known(full())},
		{name: "no rules yet: what is cut may come back", state: gateway.State{}, since: known(full()), failing: "IPv4 nat"},
		{name: "with the rules", state: gateway.State{}, stale: 2},
		{name: "conntrack fails", state: full(), failing: "cut connections"},
		{name: "it is tried again", state: full()},
		{name: "restart", before: func() { d = start(k) }, state: full()},
	} {
		k.Conntrack.Cuts, k.Conntrack.Stale = nil, step.stale
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
		want := []dataplanetest.Cut{{Since: step.since, State: step.state}}
		if step.failing == "cut connections" {
			want = nil
		}
		if diff := cmp.Diff(want, k.Conntrack.Cuts, same...); diff != "" || result.Connections != step.stale {
			t.Errorf("%s: %d connections, want %d; asked for (-want +got):\n%s", step.name, result.Connections, step.stale, diff)
		}
	}
	k.Conntrack.Cuts, k.Conntrack.Stale = nil, 4
	result, err := d.Cleanup(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]dataplanetest.Cut{{}}, k.Conntrack.Cuts); diff != "" || result.Connections != 4 {
		t.Errorf("cleanup: %s, asked for (-want +got):\n%s", result, diff)
	}
}

// What was left for later is asked for again by a look that finds nothing else.
func TestConnectionsLeftForLater(t *testing.T) {
	k := newKernel()
	d := start(k)
	state := full()
	if _, err := d.Apply(t.Context(), state); err != nil {
		t.Fatal(err)
	}
	for _, owed := range []bool{false, true} {
		k.Conntrack.Owed = owed
		if due, err := d.Check(); due != owed || err != nil {
			t.Errorf("owed %t: Check = %t, %v", owed, due, err)
		}
	}
	k.Conntrack.Cuts = nil
	if _, err := d.Apply(t.Context(), state); err != nil || len(k.Conntrack.Cuts) != 1 {
		t.Errorf("%d cuts, %v; want one", len(k.Conntrack.Cuts), err)
	}
}

var same = cmp.Options{
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
}
