// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package host

import (
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// Aside calls do in a new network namespace that ends with it: what it, or a program that it runs, writes to tables, links or routes
// there changes nothing of the host's. It needs CAP_SYS_ADMIN.
func Aside(do func() error) error {
	ended := make(chan error, 1)
	go func() {
		// Never unlocked: the thread ends with this goroutine, and with it the namespace.
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			ended <- fmt.Errorf("making a network namespace: %w", err)
			return
		}
		ended <- do()
	}()
	return <-ended
}
