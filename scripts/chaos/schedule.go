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
	// Second is another that begins while this one is held, or right after it where it is over at once.
	Second *step
}

// parts are the one fault of a step, or the two.
func (s step) parts() []step {
	if s.Second == nil {
		return []step{s}
	}
	return []step{s, *s.Second}
}

// name is that of the fault, or of both.
func (s step) name() string {
	if s.Second == nil {
		return s.Fault
	}
	return s.Fault + and + s.Second.Fault
}

// and is between the names of two faults.
const and = " + "

// pairs say how often two faults come at once.
type pairs struct {
	// after how many single ones they do; 0 is never.
	after int
	// fit says which may come together.
	fit func(first, second string) bool
}

// tempo bounds the times of a schedule.
type tempo struct{ pause, hold [2]time.Duration }

// schedule is the endless row of faults that a seed stands for. All are had in a random order before the first is had again,
// and every so often two of them at once besides.
func schedule(seed uint64, t tempo, faults []string, p pairs) iter.Seq[step] {
	return func(yield func(step) bool) {
		random := rand.New(rand.NewPCG(seed, 0))
		between := func(bounds [2]time.Duration) time.Duration {
			d := bounds[0] + time.Duration(random.Int64N(int64(bounds[1]-bounds[0])+1))
			return d.Round(time.Millisecond)
		}
		one := func(name string) step {
			return step{Fault: name, Pause: between(t.pause), Hold: between(t.hold), Pick: random.Uint32()}
		}
		couples := p.of(faults)
		for n := 0; len(faults) > 0; {
			for _, i := range random.Perm(len(faults)) {
				if !yield(one(faults[i])) {
					return
				}
				if n++; len(couples) == 0 || n%p.after != 0 {
					continue
				}
				couple := couples[random.IntN(len(couples))]
				s, second := one(couple[0]), one(couple[1])
				if s.Second = &second; !yield(s) {
					return
				}
			}
		}
	}
}

// of are all pairs of faults that may come together, in either order.
func (p pairs) of(faults []string) [][2]string {
	var couples [][2]string
	for _, first := range faults {
		for _, second := range faults {
			if p.after > 0 && p.fit(first, second) {
				couples = append(couples, [2]string{first, second})
			}
		}
	}
	return couples
}
