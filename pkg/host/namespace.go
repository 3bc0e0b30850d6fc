// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package host

import (
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// InNewNamespace calls do in a new network namespace, which disappears afterwards. Tables, links and routes that do, or a program that
// it runs, writes there do not affect the host. It needs CAP_SYS_ADMIN.
func InNewNamespace(do func() error) error {
	ended := make(chan error, 1)
	go func() {
		// Do not unlock: the thread ends with this goroutine, and the namespace with the thread.
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			ended <- fmt.Errorf("making a network namespace: %w", err)
			return
		}
		ended <- do()
	}()
	return <-ended
}
