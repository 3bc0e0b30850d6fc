// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package process reads what /proc tells of a process: its processor time, its memory and what it wrote, and
// waits until it is quiet. It changes nothing.
package process

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// Tick is the unit of processor times.
const Tick = 10 * time.Millisecond

// Time is what a process and the programs that it ran used of the cores so far.
func Time(pid int) (time.Duration, error) {
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
	return time.Duration(ticks) * Tick, nil
}

// Settle waits until no more than this was used in a second, or for as long as patience goes: that it is never quiet is seen in
// the figures.
func Settle(ctx context.Context, used func() (time.Duration, error), most, patience time.Duration) error {
	last, err := used()
	if err != nil {
		return err
	}
	for began := time.Now(); time.Since(began) < patience; {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
		}
		now, err := used()
		if err != nil || now-last <= most {
			return err
		}
		last = now
	}
	return nil
}

// Memory is what a process holds, in MB: all of it, and the most that it ever was; what of it is its own and what are pages of
// files, such as the program's, which the kernel can read again; and its share where pages are used by others too.
type Memory struct {
	RSS  float64 `json:"rss"`
	Peak float64 `json:"peak"`
	Anon float64 `json:"anon"`
	File float64 `json:"file"`
	PSS  float64 `json:"pss"`
}

// ReadMemory is what a process holds now.
func ReadMemory(pid int) (m Memory, err error) {
	status, err := Values(pid, "status")
	if err != nil {
		return m, err
	}
	rollup, err := Values(pid, "smaps_rollup")
	if err != nil {
		return m, err
	}
	const kB = 1.0 / 1000 * 1.024 // as /proc counts them
	return Memory{
		RSS: status["VmRSS"] * kB, Peak: status["VmHWM"] * kB,
		Anon: status["RssAnon"] * kB, File: status["RssFile"] * kB, PSS: rollup["Pss"] * kB,
	}, nil
}

// Values reads the "Name: number" lines of a file of /proc/PID.
func Values(pid int, file string) (map[string]float64, error) {
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
