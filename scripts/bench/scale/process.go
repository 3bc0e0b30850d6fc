// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// tick is the unit of times in /proc/PID/stat.
const tick = 10 * time.Millisecond

// processorTime is what a process and the programs that it ran used of the cores so far.
func processorTime(pid int) (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, fmt.Errorf("the processor time of a process: %w", err)
	}
	return parseStat(string(text))
}

func parseStat(text string) (time.Duration, error) {
	_, rest, ok := strings.Cut(text[strings.LastIndexByte(text, '(')+1:], ") ")
	fields := strings.Fields(rest)
	const utime, cstime = 11, 14 // user, system, and both of children that ended
	if !ok || len(fields) <= cstime {
		return 0, fmt.Errorf("/proc/PID/stat is %q", text)
	}
	var ticks int64
	for _, field := range fields[utime : cstime+1] {
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("/proc/PID/stat: %w", err)
		}
		ticks += n
	}
	return time.Duration(ticks) * tick, nil
}

// memory is what a process holds, in MB: all of it, and the most that it ever was; and its share where pages are used by others too.
type memory struct {
	RSS  float64 `json:"rss"`
	Peak float64 `json:"peak"`
	PSS  float64 `json:"pss"`
}

func readMemory(pid int) (m memory, err error) {
	status, err := procValues(pid, "status")
	if err != nil {
		return m, err
	}
	rollup, err := procValues(pid, "smaps_rollup")
	if err != nil {
		return m, err
	}
	const kB = 1.0 / 1000 * 1.024 // as /proc counts them
	return memory{RSS: status["VmRSS"] * kB, Peak: status["VmHWM"] * kB, PSS: rollup["Pss"] * kB}, nil
}

// procValues reads the "Name: number" lines of a file of /proc/PID.
func procValues(pid int, file string) (map[string]float64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file))
	if err != nil {
		return nil, fmt.Errorf("what a process uses: %w", err)
	}
	values := map[string]float64{}
	for line := range strings.Lines(string(text)) {
		name, rest, _ := strings.Cut(line, ":")
		if fields := strings.Fields(rest); len(fields) > 0 {
			if value, err := strconv.ParseFloat(fields[0], 64); err == nil {
				values[name] = value
			}
		}
	}
	return values, nil
}

// idle is what a process does while nothing changes.
type idle struct {
	Seconds float64 `json:"seconds"`
	// Core is the share of a core, in percent.
	Core float64 `json:"core"`
	// Written are the bytes that it caused to be written to disks, and Writes its calls of write.
	Written int64 `json:"written"`
	Writes  int64 `json:"writes"`
	// Restores is how often it wrote rules, as far as it tells.
	Restores int `json:"restores"`
}

func watchIdle(ctx context.Context, r runner, time time.Duration) (i idle, err error) {
	pid := r.process().PID()
	before, err := procValues(pid, "io")
	if err != nil {
		return i, err
	}
	used, err := r.used()
	if err != nil {
		return i, err
	}
	said := len(r.process().Log())
	if err := sleep(ctx, time); err != nil {
		return i, err
	}
	after, err := procValues(pid, "io")
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

// restores counts the rounds in which rules were written.
func restores(rounds []applied) int {
	n := 0
	for _, a := range rounds {
		if a.stages["restore"] > 0 {
			n++
		}
	}
	return n
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// settle waits until a contender has done nothing for a second, or for as long as the context allows.
func settle(ctx context.Context, r runner) error {
	if r.process() == nil {
		return nil
	}
	last, err := r.used()
	for err == nil {
		if err := sleep(ctx, time.Second); err != nil {
			return nil //nolint:nilerr // that it is never quiet is seen in the figures
		}
		var now time.Duration
		if now, err = r.used(); now-last <= 2*tick {
			break
		}
		last = now
	}
	return err
}
