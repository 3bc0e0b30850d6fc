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
	"github.com/smartnat/smartnat/pkg/daemon"
)

const (
	// gcPercent is the garbage that may pile up, in percent of the live heap. The live heap hardly changes here, so collecting
	// twice as often as Go's default costs little and saves memory on a small host.
	gcPercent = 50
	// leastLimit is the lowest soft limit for Go's memory.
	leastLimit = 40 << 20
	// lookEvery is the interval between updates of the limit.
	lookEvery = 5 * time.Second
)

// memory keeps the process near the size that it needs: memory that a full read or write took goes back to the system. GOGC and
// GOMEMLIMIT take precedence.
type memory struct {
	fixed bool
	// settled is set once everything is in effect. There is no limit before that.
	settled bool
	limit   int64
	looked  time.Time
	live    []metrics.Sample
	// heap has the samples that tell how near Go's next collection is; collecting is set during a collection that memory
	// started.
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

// shrink frees the memory of the text of all rules after they were read. That is rare, and happens after the kernel was
// written.
func (m *memory) shrink(readings int) {
	if readings > 0 {
		debug.FreeOSMemory()
	}
}

// collect runs the garbage collector between changes, when no client waits. A collection that begins during a change slows it
// down by ten milliseconds or more with many ports. One goroutine calls it at a time.
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

// worthCollecting reports whether the heap is past half way between the live heap and the goal at which Go collects. Go begins
// some time before the goal.
func worthCollecting(live, objects, goal uint64) bool {
	return goal > live && objects > live+(goal-live)/2
}

// follow adapts the limit to the live heap. One goroutine calls it often.
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

// limitFor allows for gcPercent and for Go's own needs, so that the limit never causes constant collections. It keeps the
// current limit if that is about right, because changing it stops the program for a moment.
func limitFor(live, current int64) int64 {
	limit := max(leastLimit, live*17/10)
	if current > 0 && limit > current*9/10 && limit < current*11/10 {
		return current
	}
	return limit
}

// withMemory adds memory management to the hooks.
func withMemory(h daemon.Hooks, m *memory) daemon.Hooks {
	return daemon.Hooks{
		Ready:         func() { h.Ready(); m.settle() },
		Applied:       func(o controller.Outcome) { h.Applied(o); m.shrink(o.Result.Readings) },
		ItemProcessed: func() { h.ItemProcessed(); m.follow(); m.collect() },
	}
}
