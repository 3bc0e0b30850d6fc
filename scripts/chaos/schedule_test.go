// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var testTempo = tempo{pause: [2]time.Duration{time.Second, 2 * time.Second}, hold: [2]time.Duration{0, 5 * time.Second}}

func take(seed uint64, n int, p pairs) []step {
	var steps []step
	for s := range schedule(seed, testTempo, []string{"a", "b", "c", "d"}, p) {
		if steps = append(steps, s); len(steps) == n {
			break
		}
	}
	return steps
}

// others pairs any two faults but "a" and "b", after every third fault.
var others = pairs{after: 3, fit: func(first, second string) bool {
	return first != second && first+second != "ab" && first+second != "ba"
}}

func TestScheduleIsTheSeeds(t *testing.T) {
	if diff := cmp.Diff(take(7, 40, others), take(7, 40, others)); diff != "" {
		t.Errorf("one seed gives two schedules:\n%s", diff)
	}
	if cmp.Equal(take(7, 40, others), take(8, 40, others)) {
		t.Error("two seeds give one schedule")
	}
}

func TestScheduleHasAllInTurns(t *testing.T) {
	var steps []step
	for i, s := range take(7, 160, others) {
		if pair := s.Second != nil; pair != (i%4 == 3) {
			t.Errorf("step %d: pair = %t", i+1, pair)
		}
		for _, part := range s.parts() {
			if part.Pause < time.Second || part.Pause > 2*time.Second || part.Hold < 0 || part.Hold > 5*time.Second {
				t.Errorf("out of bounds: %+v", part)
			}
		}
		if s.Second == nil {
			steps = append(steps, s)
		}
	}
	for round := range slices.Chunk(steps, 4) {
		var names []string
		for _, s := range round {
			names = append(names, s.Fault)
		}
		slices.Sort(names)
		if diff := cmp.Diff([]string{"a", "b", "c", "d"}, names); diff != "" {
			t.Errorf("a round does not have each fault once:\n%s", diff)
		}
	}
}

func TestSchedulePairs(t *testing.T) {
	seen := map[string]bool{}
	for _, s := range take(7, 400, others) {
		if s.Second != nil {
			seen[s.Fault+s.Second.Fault] = true
		}
	}
	want := []string{"ac", "ad", "bc", "bd", "ca", "cb", "cd", "da", "db", "dc"}
	if diff := cmp.Diff(want, slices.Sorted(maps.Keys(seen))); diff != "" {
		t.Errorf("pairs (-want +got):\n%s", diff)
	}
	for _, p := range []pairs{{fit: others.fit}, {after: 3, fit: func(string, string) bool { return false }}} {
		if slices.ContainsFunc(take(7, 40, p), func(s step) bool { return s.Second != nil }) {
			t.Errorf("a pair, with after = %d", p.after)
		}
	}
}

func TestFit(t *testing.T) {
	for _, test := range []struct {
		name, first, second string
		want                bool
	}{
		{"done to different things", "relay killed", "smartnatd killed", true},
		{"done to the same", "smartnatd ended", "smartnatd killed", false},
		{"the first comes alone", "saved objects damaged", "nat flushed", false},
		{"the second comes alone", "nat flushed", "saved objects damaged", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := fit(test.first, test.second); got != test.want {
				t.Errorf("fit(%s, %s) = %t", test.first, test.second, got)
			}
		})
	}
}
