// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package dataplane_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/iptables/ruleset"
)

// TestVerification expects that a verification finds a change that no stamp shows, also if the host was idle for long.
func TestVerification(t *testing.T) {
	k := newKernel()
	k.Tables.Blind = true
	d := start(k)
	apply(t, d, full())
	dropTable(k, gateway.IPv4, "nat")
	expectChanged(t, d, false)
	if result := apply(t, d, full()); !result.Empty() {
		t.Fatalf("noticed without reading the tables: %s", result)
	}
	d.Verify()
	expectRepair(t, apply(t, d, full()), []string{"IPv4 table nat: chains missing or changed: SMARTNAT-"})
}

// TestDigestsAreCompared expects that a routine digest finds a change that no stamp shows, and that routine digests take only
// their share of the time.
func TestDigestsAreCompared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKernel()
		k.Tables.Blind = true
		digests := 0
		k.Fail = func(step string) error {
			if step == "IPv4 digest" {
				digests++
				time.Sleep(10 * time.Millisecond)
			}
			return nil
		}
		d := start(k)
		apply(t, d, full())
		digests = 0
		for range 400 { // 40 s
			expectChanged(t, d, false)
			time.Sleep(100 * time.Millisecond)
		}
		// One of 10 ms is made every 20 s.
		if digests != 2 {
			t.Errorf("%d digests in 40 s, want 2", digests)
		}
		dropTable(k, gateway.IPv4, "nat")
		time.Sleep(20 * time.Second)
		expectChanged(t, d, true)
		expectRepair(t, apply(t, d, full()), []string{"IPv4 table nat: chains missing or changed: SMARTNAT-"})
		time.Sleep(20 * time.Second)
		expectQuiet(t, d, full())
	})
}

// TestACheckThatComesTooEarlyIsMadeAgain expects a call to changed as soon as the tables may be read again.
func TestACheckThatComesTooEarlyIsMadeAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := fresh(t, full())
		k.Fail = func(step string) error {
			if step == "IPv4 save" {
				time.Sleep(600 * time.Millisecond) // keeps them unread for 12 s, of which the quiet period before covers 10
			}
			return nil
		}
		d := start(k)
		apply(t, d, full())
		time.Sleep(time.Minute)
		called := make(chan time.Time, 10)
		go func() { _ = d.Watch(t.Context(), func() { called <- time.Now() }) }()
		<-called // the call at the start of Watch
		dropTable(k, gateway.IPv4, "nat")
		expectChanged(t, d, true)
		apply(t, d, full())
		repaired := time.Now()
		dropTable(k, gateway.IPv4, "nat")
		expectChanged(t, d, false)
		expectChanged(t, d, false) // and requests no second call
		if waited := (<-called).Sub(repaired); waited < time.Second || waited > 3*time.Second {
			t.Errorf("called after %v, want 2 s", waited)
		}
		expectChanged(t, d, true)
		expectRepair(t, apply(t, d, full()), []string{"IPv4 table nat: chains missing or changed: SMARTNAT-"})
		time.Sleep(time.Minute)
		if len(called) > 0 {
			t.Errorf("%d more calls", len(called))
		}
	})
}

// TestVerificationByCount expects that our own writes cause no reading where writes are counted, unless another process wrote
// at the same time.
func TestVerificationByCount(t *testing.T) {
	k := newKernel()
	k.Tables.Counting = true
	d := start(k)
	other := full()
	other.Forwards[0].Backends = other.Forwards[0].Backends[:1]
	harm := func() {
		dropTable(k, gateway.IPv4, "filter")
		k.Tables.Writes++
	}
	for _, step := range []struct {
		name string
		// during runs while a table is written.
		during func()
		// more adds another change of ours before the verification.
		more   bool
		saves  int
		repair bool
	}{
		{name: "no other writer"},
		{name: "still no other writer"},
		{name: "another process writes at the same time", during: harm, saves: 1, repair: true},
		{name: "no other writer after that"},
		{name: "another process writes, and our next write repairs it", during: harm, more: true},
	} {
		apply(t, d, full())
		k.Fail = func(s string) error {
			if s == "IPv4 nat" && step.during != nil {
				step.during()
				step.during = nil
			}
			return nil
		}
		apply(t, d, other)
		if step.more {
			apply(t, d, full())
			apply(t, d, other)
		}
		k.Fail, k.Tables.Saves = nil, 0
		d.Verify()
		result := apply(t, d, other)
		if k.Tables.Saves != step.saves || result.Empty() == step.repair {
			t.Errorf("%s: %d saves, want %d; %s", step.name, k.Tables.Saves, step.saves, result)
		}
	}
}

// TestOneFamilyHidesNothingOfTheOther expects that, where writes are not counted, a write of ours in one family does not hide
// another process's write in the other.
func TestOneFamilyHidesNothingOfTheOther(t *testing.T) {
	k := fresh(t, full())
	d := start(k)
	apply(t, d, full())
	k.Fail = func(step string) error {
		if step == "IPv4 nat" {
			dropTable(k, gateway.IPv6, "nat")
		}
		return nil
	}
	other := full()
	other.Forwards[0].Backends = other.Forwards[0].Backends[:1]
	expectRepair(t, apply(t, d, other), []string{"IPv6 table nat: chains missing"})
}

// TestReadingIsBounded expects that a process which writes all the time causes readings only at intervals.
func TestReadingIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := fresh(t, full())
		k.Fail = func(step string) error {
			if step == "IPv4 save" {
				time.Sleep(100 * time.Millisecond)
			}
			return nil
		}
		d := start(k)
		apply(t, d, full())
		k.Tables.Saves = 0
		found := 0
		time.Sleep(time.Minute)
		for i := range 100 { // 10 s
			time.Sleep(100 * time.Millisecond)
			insert(k, "filter", "FORWARD", ruleset.Rule{In: fmt.Sprintf("eth%d", 9+i), Target: ruleset.Target{Verb: ruleset.Accept}})
			if changed, err := d.Check(); err != nil {
				t.Fatal(err)
			} else if changed {
				found++
				expectRepair(t, apply(t, d, full()), []string{"IPv4 table filter: jumps missing or not first: FORWARD"})
			} else { // Our own changes cause no readings in addition to those of the checks.
				state := full()
				state.Forwards[0].Backends = state.Forwards[0].Backends[:1+i%2]
				apply(t, d, state)
			}
		}
		// A reading of 0.1 s blocks the next one for 2 s. The test covers 11 s with the readings, after a quiet period of 10 s.
		if found != 11 || k.Tables.Saves != 11 {
			t.Errorf("%d repairs, %d readings, want 11", found, k.Tables.Saves)
		}
	})
}
