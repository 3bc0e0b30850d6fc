// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"runtime"
	"testing"
	"time"
)

func TestLimitFor(t *testing.T) {
	const mb = 1 << 20
	for _, test := range []struct {
		name                string
		live, current, want int64
	}{
		{"nothing in use", 0, 0, 40 * mb},
		{"little in use", 20 * mb, 0, 40 * mb},
		{"it grows", 100 * mb, 40 * mb, 170 * mb},
		{"a little more", 105 * mb, 170 * mb, 170 * mb},
		{"much more", 120 * mb, 170 * mb, 204 * mb},
		{"a little less", 95 * mb, 170 * mb, 170 * mb},
		{"it shrinks", 10 * mb, 170 * mb, 40 * mb},
	} {
		if got := limitFor(test.live, test.current); got != test.want {
			t.Errorf("%s: %d MB, want %d MB", test.name, got/mb, test.want/mb)
		}
	}
}

func TestWorthCollecting(t *testing.T) {
	for _, test := range []struct {
		name                string
		live, objects, goal uint64
		want                bool
	}{
		{"nothing known yet", 0, 0, 0, false},
		{"just collected", 20, 20, 30, false},
		{"some garbage", 20, 25, 30, false},
		{"more than half of what there may be", 20, 26, 30, true},
		{"swept meanwhile", 20, 19, 30, false},
		{"the limit is near", 20, 21, 20, false},
	} {
		if got := worthCollecting(test.live, test.objects, test.goal); got != test.want {
			t.Errorf("%s: %t, want %t", test.name, got, test.want)
		}
	}
}

var garbage []byte

// TestCollectsBetweenTurns checks that the garbage of a turn is collected after it, before Go would collect it.
func TestCollectsBetweenTurns(t *testing.T) {
	forced := func() uint32 {
		var stats runtime.MemStats
		runtime.ReadMemStats(&stats)
		return stats.NumForcedGC
	}
	for _, settled := range []bool{false, true} {
		m := newMemory()
		m.settled = settled
		runtime.GC()
		before := forced()
		for began := time.Now(); forced() == before && time.Since(began) < 10*time.Second; {
			garbage = make([]byte, 64<<10)
			m.collect()
			if !settled && time.Since(began) > 100*time.Millisecond {
				break
			}
		}
		if got := forced() > before; got != settled {
			t.Errorf("settled %t: collected %t", settled, got)
		}
		for m.collecting.Load() {
			time.Sleep(time.Millisecond)
		}
	}
}
