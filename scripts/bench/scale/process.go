// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"context"
	"time"

	"github.com/smartnat/smartnat/scripts/bench/load"
	"github.com/smartnat/smartnat/scripts/bench/process"
)

// idle is the activity of a process while nothing changes.
type idle struct {
	Seconds float64 `json:"seconds"`
	// Core is the share of a core, in percent.
	Core float64 `json:"core"`
	// Written is the number of bytes written to disk, and Writes the number of write calls.
	Written int64 `json:"written"`
	Writes  int64 `json:"writes"`
	// Restores is the number of writes of rules, as far as the log shows them.
	Restores int `json:"restores"`
}

func watchIdle(ctx context.Context, r runner, time time.Duration) (i idle, err error) {
	pid := r.process().PID()
	before, err := process.Values(pid, "io")
	if err != nil {
		return i, err
	}
	used, err := r.used()
	if err != nil {
		return i, err
	}
	said := len(r.process().Log())
	if err := load.Sleep(ctx, time); err != nil {
		return i, err
	}
	after, err := process.Values(pid, "io")
	if err != nil {
		return i, err
	}
	now, err := r.used()
	return idle{
		Seconds: time.Seconds(), Core: 100 * (now - used).Seconds() / time.Seconds(),
		Written: int64(after["write_bytes"] - before["write_bytes"]), Writes: int64(after["syscw"] - before["syscw"]),
		Restores: restores(parseApplied(r.process().Log()[said:])),
	}, err
}

// restores counts the rounds that wrote rules.
func restores(rounds []applied) int {
	n := 0
	for _, a := range rounds {
		if a.stages["restore"] > 0 {
			n++
		}
	}
	return n
}
