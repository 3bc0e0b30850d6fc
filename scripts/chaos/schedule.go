// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"iter"
	"math/rand/v2"
	"time"
)

// step is one fault of a schedule.
type step struct {
	// Fault is its name.
	Fault string
	// Pause goes before it, and Hold is how long it stays where it is not over at once.
	Pause, Hold time.Duration
	// Pick chooses among the variants of a fault: which table, which link.
	Pick uint32
}

// tempo bounds the times of a schedule.
type tempo struct{ pause, hold [2]time.Duration }

// schedule is the endless row of faults that a seed stands for. All are had in a random order before the first is had again.
func schedule(seed uint64, t tempo, faults []string) iter.Seq[step] {
	return func(yield func(step) bool) {
		random := rand.New(rand.NewPCG(seed, 0))
		between := func(bounds [2]time.Duration) time.Duration {
			d := bounds[0] + time.Duration(random.Int64N(int64(bounds[1]-bounds[0])+1))
			return d.Round(time.Millisecond)
		}
		for len(faults) > 0 {
			for _, i := range random.Perm(len(faults)) {
				s := step{Fault: faults[i], Pause: between(t.pause), Hold: between(t.hold), Pick: random.Uint32()}
				if !yield(s) {
					return
				}
			}
		}
	}
}
