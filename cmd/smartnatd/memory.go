// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync/atomic"
	"time"

	"github.com/smartnat/smartnat/pkg/controller"
)

const (
	// gcPercent is how much garbage may pile up beside what is in use, in percent of it. What is in use hardly changes here,
	// so to collect twice as often as Go would costs little, and keeps us small on a small host.
	gcPercent = 50
	// leastLimit is Go's soft limit where little is in use.
	leastLimit = 40 << 20
	// lookEvery is how often the limit is looked at.
	lookEvery = 5 * time.Second
)

// memory keeps a process that is in effect near to the size that it needs: what it once took for reading and writing
// everything goes back to the system. It leaves alone what GOGC and GOMEMLIMIT say.
type memory struct {
	fixed bool
	// settled is set once all is in effect: before, nothing is held back.
	settled bool
	limit   int64
	looked  time.Time
	live    []metrics.Sample
	// heap says how far it is to Go's next collection, collecting is set during one of ours.
	heap       []metrics.Sample
	collecting atomic.Bool
}

func newMemory() *memory {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	return &memory{fixed: os.Getenv("GOMEMLIMIT") != "", live: []metrics.Sample{{Name: "/gc/heap/live:bytes"}},
		heap: []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/memory/classes/heap/objects:bytes"}, {Name: "/gc/heap/goal:bytes"}}}
}

// settle gives back what the start took.
func (m *memory) settle() {
	m.settled = true
	go debug.FreeOSMemory()
}

// shrink gives back what the text of all rules took, where it was read: seldom, and after the kernel was written.
func (m *memory) shrink(readings int) {
	if readings > 0 {
		debug.FreeOSMemory()
	}
}

// collect has the garbage collected between changes, where nobody waits: a collection that begins in the middle of a change
// has it help, for ten milliseconds and more among many ports. It is called by one goroutine at a time.
func (m *memory) collect() {
	if !m.settled || m.collecting.Load() {
		return
	}
	metrics.Read(m.heap)
	for _, sample := range m.heap {
		if sample.Value.Kind() != metrics.KindUint64 {
			return
		}
	}
	if !worthCollecting(m.heap[0].Value.Uint64(), m.heap[1].Value.Uint64(), m.heap[2].Value.Uint64()) {
		return
	}
	m.collecting.Store(true)
	go func() {
		defer m.collecting.Store(false)
		runtime.GC()
	}()
}

// worthCollecting is true half way from what was in use after the last collection to where Go collects by itself, for which
// it begins some time before.
func worthCollecting(live, objects, goal uint64) bool {
	return goal > live && objects > live+(goal-live)/2
}

// follow sets the limit by what is in use now. It is called often, by one goroutine at a time.
func (m *memory) follow() {
	now := time.Now()
	if m.fixed || !m.settled || now.Sub(m.looked) < lookEvery {
		return
	}
	m.looked = now
	metrics.Read(m.live)
	if m.live[0].Value.Kind() != metrics.KindUint64 {
		return
	}
	if limit := limitFor(int64(m.live[0].Value.Uint64()), m.limit); limit != m.limit {
		m.limit = limit
		debug.SetMemoryLimit(limit)
	}
}

// limitFor leaves as much room as gcPercent does and some for what Go needs itself, so that a limit never makes it collect all
// the time; and stays what it is for as long as that is about right, as to change it stops the program for a moment.
func limitFor(live, current int64) int64 {
	limit := max(leastLimit, live*17/10)
	if current > 0 && limit > current*9/10 && limit < current*11/10 {
		return current
	}
	return limit
}

// and has the memory follow what a runner does.
func (h hooks) and(m *memory) hooks {
	return hooks{
		ready:   func() { h.ready(); m.settle() },
		applied: func(o controller.Outcome) { h.applied(o); m.shrink(o.Result.Readings) },
		turned:  func() { h.turned(); m.follow(); m.collect() },
	}
}
