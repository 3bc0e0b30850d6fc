// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"os"
	"runtime/debug"

	"k8s.io/client-go/tools/cache"
)

// gcPercent is the value of GOGC after the first sync. From then on the live heap, which is the cluster and a little per
// watch, hardly changes, and memory matters more than CPU time.
const gcPercent = 10

// saveMemory lowers GOGC to gcPercent after the first sync, unless GOGC is set. During the sync, frequent collections
// would take longer than the lists themselves.
func saveMemory(ctx context.Context, hasSynced func() bool) {
	if os.Getenv("GOGC") != "" || !cache.WaitForCacheSync(ctx.Done(), hasSynced) {
		return
	}
	debug.SetGCPercent(gcPercent)
	debug.FreeOSMemory()
}
