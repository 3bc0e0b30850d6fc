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

// Run describes when and where a benchmark ran, and how it ended.
type Run struct {
	Date     time.Time `json:"date"`
	Machine  string    `json:"machine"`
	Cores    int       `json:"cores"`
	Kernel   string    `json:"kernel"`
	IPTables string    `json:"iptables,omitempty"`
	Quick    bool      `json:"quick"`
	Seconds  float64   `json:"seconds"`
	// Load is the load average before and after. On a busy machine ratios are reliable and rates are not.
	Load [2]string `json:"load"`
	// Ended is the reason if the run ended early.
	Ended string `json:"ended,omitempty"`
}

// Begin starts a run.
func Begin() Run {
	// Workers block in system calls, each with a P of the Go runtime. With only as many Ps as cores they would wait for each
	// other.
	cores := runtime.GOMAXPROCS(64)
	return Run{Date: time.Now().UTC(), Machine: Processor(), Cores: cores, Kernel: Kernel(), Load: [2]string{Average(), ""}}
}

// End finishes the run. err is its failure, if any.
func (r *Run) End(err error) {
	r.Seconds, r.Load[1] = time.Since(r.Date).Seconds(), Average()
	if err != nil {
		r.Ended = err.Error()
	}
}

// Heading returns the first lines of a report, as Markdown.
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

// Sleep waits for d, or returns the context's error as soon as it ends.
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
