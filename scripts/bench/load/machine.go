// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package load

import (
	"context"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/smartnat/smartnat/scripts/lab"
)

// Kernel is its release.
func Kernel() string {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return "?"
	}
	return unix.ByteSliceToString(name.Release[:])
}

// Processor is what the machine's says that it is.
func Processor() string {
	text, _ := os.ReadFile("/proc/cpuinfo") // without it, nobody knows
	for line := range strings.Lines(string(text)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

// IPTables is the version of a host's iptables.
func IPTables(ctx context.Context, h *lab.Host) (version string, err error) {
	text, err := h.Exec(ctx, "iptables", "--version")
	if fields := strings.Fields(text); len(fields) > 1 {
		version = strings.TrimPrefix(fields[1], "v")
	}
	return version, err
}

// Average is the load average of the last minute.
func Average() string {
	text, _ := os.ReadFile("/proc/loadavg") // without it, nobody knows
	fields := strings.Fields(string(text))
	if len(fields) == 0 {
		return "?"
	}
	return fields[0]
}
