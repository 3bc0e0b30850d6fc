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

// Kernel returns the release of the kernel.
func Kernel() string {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return "?"
	}
	return unix.ByteSliceToString(name.Release[:])
}

// Processor returns the model name of the machine's processor, or "".
func Processor() string {
	text, _ := os.ReadFile("/proc/cpuinfo") // unknown if missing
	for line := range strings.Lines(string(text)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

// IPTables returns the version of a host's iptables.
func IPTables(ctx context.Context, h *lab.Host) (version string, err error) {
	text, err := h.Exec(ctx, "iptables", "--version")
	if fields := strings.Fields(text); len(fields) > 1 {
		version = strings.TrimPrefix(fields[1], "v")
	}
	return version, err
}

// Average returns the load average of the last minute, or "".
func Average() string {
	text, _ := os.ReadFile("/proc/loadavg") // unknown if missing
	fields := strings.Fields(string(text))
	if len(fields) == 0 {
		return "?"
	}
	return fields[0]
}
