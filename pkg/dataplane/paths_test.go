// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package dataplane_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/iptables/ruleset"
)

func TestAbsentUplinkBlocksNothing(t *testing.T) {
	k := newKernel()
	k.Routes.SetLink("eth2", false)
	delete(k.Sysctls.Values, "net/ipv4/conf/eth2/rp_filter")
	_, err := start(k).Apply(t.Context(), full())
	if err == nil || strings.Contains(err.Error(), "eth1") || !strings.Contains(err.Error(), "eth2") {
		t.Errorf("err = %v, want an error about eth2 only", err)
	}
	want := fresh(t, full())
	want.Routes.SetLink("eth2", false)
	delete(want.Sysctls.Values, "net/ipv4/conf/eth2/rp_filter")
	expectSame(t, want, k)
}

func TestCleanupLeavesTheRest(t *testing.T) {
	k := newKernel()
	foreign := ruleset.Rule{Foreign: "-s 10.0.0.0/8 -m comment --comment other -j DOCKER", Target: ruleset.Target{Verb: ruleset.Jump, Chain: "DOCKER"}}
	for _, family := range k.Tables.Families() {
		rs := ruleset.Ruleset{Family: family}
		for _, table := range []string{"mangle", "filter", "nat"} {
			rs.Tables = append(rs.Tables, ruleset.Table{Name: table, Chains: []*ruleset.Chain{
				{Name: "DOCKER"}, {Name: "OUTPUT", Rules: []ruleset.Rule{foreign}},
			}})
		}
		k.Tables.Rulesets[family] = rs
	}
	before := map[gateway.Family]string{}
	for family, rules := range k.Tables.Rulesets {
		before[family] = text(rules)
	}
	d := start(k)
	apply(t, d, full())
	for range 2 {
		if _, err := d.Cleanup(t.Context()); err != nil {
			t.Fatal(err)
		}
		for family, rules := range k.Tables.Rulesets {
			if diff := cmp.Diff(before[family], text(rules)); diff != "" {
				t.Errorf("IPv%d after cleanup (-before +after):\n%s", family, diff)
			}
		}
		if set := k.Routes.Set; len(set.Rules)+len(set.Routes) > 0 {
			t.Errorf("left behind: %q", set.Commands())
		}
	}
	// A cleaned up Dataplane must have forgotten what it knew.
	apply(t, d, full())
	again := start(k)
	if result := apply(t, again, full()); !result.Empty() {
		t.Errorf("after cleanup and apply: %s", result)
	}
}

func TestInterrupted(t *testing.T) {
	k := newKernel()
	d := start(k)
	apply(t, d, full())
	ctx, cancel := context.WithCancel(t.Context())
	k.Journal = nil
	k.Fail = func(step string) error {
		if step == "IPv4 mangle" {
			cancel()
		}
		if strings.HasPrefix(step, "IPv") {
			return ctx.Err()
		}
		return nil
	}
	if _, err := d.Apply(ctx, gateway.State{}); !errors.Is(err, context.Canceled) {
		t.Errorf("err = %v", err)
	}
	// Parameters are restored before anything else.
	left := slices.DeleteFunc(k.Journal, func(step string) bool { return strings.HasPrefix(step, "sysctl ") })
	if len(left) > 0 {
		t.Errorf("removed while netfilter rules still rely on it: %q", left)
	}
}

// TestRandomWalk expects that the kernel depends only on the last state, whatever happens on the way.
func TestRandomWalk(t *testing.T) {
	for seed := range uint64(20) {
		synctest.Test(t, func(t *testing.T) { walk(t, seed) })
	}
}

func walk(t *testing.T, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 1))
	k := newKernel()
	d := start(k)
	var state gateway.State
	for range 15 {
		state = random(r)
		switch r.IntN(6) {
		case 0:
			d = start(k)
		case 1:
			dropTable(k, gateway.Family(4+2*r.IntN(2)), []string{"mangle", "filter", "nat"}[r.IntN(3)])
			if r.IntN(2) == 0 {
				d.Verify()
			}
		case 2:
			k.Routes.SetLink("eth1", false)
			k.Routes.SetLink("eth1", true)
			d.HostChanged()
		case 3:
			k.Fail = func(string) error {
				if r.IntN(5) == 0 {
					return errors.New("broken for the test")
				}
				return nil
			}
		}
		// Errors are part of this test. It checks what they leave behind.
		_, err := d.Apply(t.Context(), state)
		if err != nil && k.Fail == nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		k.Fail = nil
		if err != nil && r.IntN(2) == 0 {
			apply(t, d, state)
		}
	}
	apply(t, d, state)
	expectSame(t, fresh(t, state), k)
	if t.Failed() {
		t.Fatalf("seed %d", seed)
	}
	if _, err := d.Cleanup(t.Context()); err != nil {
		t.Fatal(err)
	}
	expectSame(t, newKernel(), k)
}
