// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestEachTurnIsTold expects a call after each item, also when idle, so that silence means a hung worker.
func TestEachTurnIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := start(t, false)
		var turns atomic.Int64
		f.ItemProcessed = func() { turns.Add(1) }
		f.Enqueue()
		time.Sleep(time.Minute)
		if n := turns.Load(); n != 0 {
			t.Errorf("%d turns before the source synced", n)
		}
		f.source.synced.Store(true)
		f.Enqueue()
		time.Sleep(500 * time.Millisecond)
		if n := turns.Load(); n != 0 {
			t.Errorf("%d turns during the first apply", n)
		}
		for last := int64(0); last < 50; {
			time.Sleep(checkInterval + checkInterval/10 + time.Second)
			now := turns.Load()
			if now <= last {
				t.Fatalf("no turn after turn %d within the time of a check and an apply", last)
			}
			last = now
		}
	})
}
