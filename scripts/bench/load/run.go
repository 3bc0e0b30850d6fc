// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package load

import (
	"context"
	"fmt"
	"runtime"
	"time"
)

// Run says of a benchmark when and where it ran, and how it ended.
type Run struct {
	Date     time.Time `json:"date"`
	Machine  string    `json:"machine"`
	Cores    int       `json:"cores"`
	Kernel   string    `json:"kernel"`
	IPTables string    `json:"iptables,omitempty"`
	Quick    bool      `json:"quick"`
	Seconds  float64   `json:"seconds"`
	// Load is /proc/loadavg before and after: on a machine that does other things, ratios hold and rates do not.
	Load [2]string `json:"load"`
	// Ended is why it ended early, when it did.
	Ended string `json:"ended,omitempty"`
}

// Begin begins a run.
func Begin() Run {
	// Threads wait in system calls, each with a processor of the runtime's: with as many as there are cores they would wait
	// for each other.
	cores := runtime.GOMAXPROCS(64)
	return Run{Date: time.Now().UTC(), Machine: Processor(), Cores: cores, Kernel: Kernel(), Load: [2]string{Average(), ""}}
}

// End ends it, with what went wrong if anything did.
func (r *Run) End(err error) {
	r.Seconds, r.Load[1] = time.Since(r.Date).Seconds(), Average()
	if err != nil {
		r.Ended = err.Error()
	}
}

// Heading is the first lines of a report, as Markdown.
func (r *Run) Heading() string {
	kind, iptables := "full run", ""
	if r.Quick {
		kind = "quick run"
	}
	if r.IPTables != "" {
		iptables = ", iptables " + r.IPTables
	}
	heading := fmt.Sprintf("%s, %s of %.0f s. %s, %d cores, Linux %s%s. Load average before: %s, after: %s.\n",
		r.Date.Format(time.DateOnly+" 15:04 MST"), kind, r.Seconds, r.Machine, r.Cores, r.Kernel, iptables, r.Load[0], r.Load[1])
	if r.Ended != "" {
		heading += fmt.Sprintf("\n**Not complete**: %s\n", r.Ended)
	}
	return heading
}

// Sleep sleeps, unless the context ends: then it returns its error at once.
func Sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
