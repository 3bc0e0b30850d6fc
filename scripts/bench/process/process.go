// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package process reads the processor time, memory and writes of a process from /proc, and waits until it is idle. It changes
// nothing.
package process

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// Tick is the unit of processor times in /proc.
const Tick = 10 * time.Millisecond

// Time returns the processor time of a process and its terminated children so far.
func Time(pid int) (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, fmt.Errorf("reading the processor time of a process: %w", err)
	}
	return parseStat(string(text))
}

func parseStat(text string) (time.Duration, error) {
	_, rest, ok := strings.Cut(text[strings.LastIndexByte(text, '(')+1:], ") ")
	fields := strings.Fields(rest)
	const utime, cstime = 11, 14 // user and system time, each also of terminated children
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

// Settle waits until at most the given processor time was used in one second, or until patience is over. It does not fail
// then, because the figures show that the process never became idle.
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

// Memory is the memory of a process in MB: RSS and its peak; its anonymous part and the file pages, such as the program,
// which the kernel can read again; and PSS, which divides shared pages.
type Memory struct {
	RSS  float64 `json:"rss"`
	Peak float64 `json:"peak"`
	Anon float64 `json:"anon"`
	File float64 `json:"file"`
	PSS  float64 `json:"pss"`
}

// ReadMemory returns the current memory of a process.
func ReadMemory(pid int) (m Memory, err error) {
	status, err := Values(pid, "status")
	if err != nil {
		return m, err
	}
	rollup, err := Values(pid, "smaps_rollup")
	if err != nil {
		return m, err
	}
	const kB = 1.0 / 1000 * 1.024 // /proc uses KiB
	return Memory{
		RSS: status["VmRSS"] * kB, Peak: status["VmHWM"] * kB,
		Anon: status["RssAnon"] * kB, File: status["RssFile"] * kB, PSS: rollup["Pss"] * kB,
	}, nil
}

// Values reads the "Name: number" lines of a file in /proc/PID.
func Values(pid int, file string) (map[string]float64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file))
	if err != nil {
		return nil, fmt.Errorf("reading the usage of a process: %w", err)
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
