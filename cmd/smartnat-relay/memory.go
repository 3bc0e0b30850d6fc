// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"os"
	"runtime/debug"

	"k8s.io/client-go/tools/cache"
)

// gcPercent is how much garbage may pile up beside what is in use, in percent of it, once the cluster was read: from then on
// what is in use, the cluster and a little for each watch, hardly changes, and memory is what many watches take.
const gcPercent = 10

// saveMemory keeps the relay near to the size that it needs, unless GOGC says otherwise. While the cluster is read it leaves
// the collector as it is: there is little to keep small yet, and to collect so often would take longer than to read.
func saveMemory(ctx context.Context, hasSynced func() bool) {
	if os.Getenv("GOGC") != "" || !cache.WaitForCacheSync(ctx.Done(), hasSynced) {
		return
	}
	debug.SetGCPercent(gcPercent)
	debug.FreeOSMemory()
}
