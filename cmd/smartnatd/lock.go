// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// lockInstance makes this process the only one that writes to the host for this runtime directory, until it ends or
// closes what is returned.
func lockInstance(runtimeDir string) (io.Closer, error) {
	if err := os.MkdirAll(runtimeDir, 0o755); err != nil {
		return nil, fmt.Errorf("making runtimeDir: %w", err)
	}
	file, err := os.OpenFile(filepath.Join(runtimeDir, "smartnatd.pid"), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("opening the lock in runtimeDir: %w", err)
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		defer file.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			pid, _ := io.ReadAll(file)
			return nil, fmt.Errorf("smartnatd is already running (pid %s, %s): stop it first",
				cmp.Or(strings.TrimSpace(string(pid)), "unknown"), file.Name())
		}
		return nil, fmt.Errorf("locking %s: %w", file.Name(), err)
	}
	// The pid is but for the message of a second one; on a full disk it is missing.
	if err := file.Truncate(0); err == nil {
		_, _ = fmt.Fprintln(file, os.Getpid())
	}
	return file, nil
}
