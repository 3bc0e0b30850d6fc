// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"iter"
	"math/rand/v2"
	"time"
)

// step is one fault of a schedule, or two at once.
type step struct {
	// Fault is the name of the fault.
	Fault string
	// Pause comes before the fault, and Hold is how long it lasts unless it ends at once.
	Pause, Hold time.Duration
	// Pick chooses among the variants of a fault: which table, which link.
	Pick uint32
	// Second begins while this fault is held, or right after it if it ends at once.
	Second *step
}

// parts returns the one fault of a step, or both.
func (s step) parts() []step {
	if s.Second == nil {
		return []step{s}
	}
	return []step{s, *s.Second}
}

// name returns the name of the fault, or of both.
func (s step) name() string {
	if s.Second == nil {
		return s.Fault
	}
	return s.Fault + and + s.Second.Fault
}

// and joins the names of two faults.
const and = " + "

// pairs says how often two faults come at once.
type pairs struct {
	// after is the number of single faults before a pair; 0 means no pairs.
	after int
	// fit reports whether two faults may be paired.
	fit func(first, second string) bool
}

// tempo bounds the times of a schedule.
type tempo struct{ pause, hold [2]time.Duration }

// schedule returns the endless sequence of faults that a seed defines. Each fault comes once, in random order, before any comes
// again, with pairs in between.
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

// of returns all pairs of faults that fit, in either order.
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
