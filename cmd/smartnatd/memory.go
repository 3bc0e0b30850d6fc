// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"runtime/debug"
)

// gcPercent is how much garbage may pile up beside what is in use, in percent of it. What is in use hardly changes here, so to
// collect twice as often as Go would costs little, and keeps us small on a small host.
const gcPercent = 50

// tuneMemory leaves it to those who set GOGC. GOMEMLIMIT is Go's own and works as ever.
func tuneMemory() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
}
