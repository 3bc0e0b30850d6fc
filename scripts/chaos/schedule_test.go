// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var testTempo = tempo{pause: [2]time.Duration{time.Second, 2 * time.Second}, hold: [2]time.Duration{0, 5 * time.Second}}

func take(seed uint64, n int) []step {
	var steps []step
	for s := range schedule(seed, testTempo, []string{"a", "b", "c", "d"}) {
		if steps = append(steps, s); len(steps) == n {
			break
		}
	}
	return steps
}

func TestScheduleIsTheSeeds(t *testing.T) {
	if diff := cmp.Diff(take(7, 40), take(7, 40)); diff != "" {
		t.Errorf("the same seed, another schedule:\n%s", diff)
	}
	if cmp.Equal(take(7, 40), take(8, 40)) {
		t.Error("another seed, the same schedule")
	}
}

func TestScheduleHasAllInTurns(t *testing.T) {
	steps := take(7, 40)
	for round := range slices.Chunk(steps, 4) {
		var names []string
		for _, s := range round {
			names = append(names, s.Fault)
			if s.Pause < time.Second || s.Pause > 2*time.Second || s.Hold < 0 || s.Hold > 5*time.Second {
				t.Errorf("out of bounds: %+v", s)
			}
		}
		slices.Sort(names)
		if diff := cmp.Diff([]string{"a", "b", "c", "d"}, names); diff != "" {
			t.Errorf("a round is not all faults once:\n%s", diff)
		}
	}
}
