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
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// errRunning says that another process holds the lock.
var errRunning = errors.New("smartnatd is already running")

// lockInstance makes this process the only one that writes to the host for this runtime directory, until it ends or
// closes what is returned.
func lockInstance(runtimeDir string) (io.Closer, error) {
	if err := makePrivate(runtimeDir); err != nil {
		return nil, fmt.Errorf("making runtimeDir: %w", err)
	}
	// A user who can open the file, if only to read it, can hold the lock.
	file, err := os.OpenFile(filepath.Join(runtimeDir, "smartnatd.pid"), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the lock in runtimeDir: %w", err)
	}
	if err := file.Chmod(0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("closing the lock in runtimeDir to other users: %w", err), file.Close())
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		defer file.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			pid, _ := io.ReadAll(file)
			return nil, fmt.Errorf("%w (pid %s, %s): stop it first",
				errRunning, cmp.Or(strings.TrimSpace(string(pid)), "unknown"), file.Name())
		}
		return nil, fmt.Errorf("locking %s: %w", file.Name(), err)
	}
	// The pid is but for the message of a second one; on a full disk it is missing.
	if err := file.Truncate(0); err == nil {
		_, _ = fmt.Fprintln(file, os.Getpid())
	}
	return file, nil
}

// makePrivate makes a folder for this user alone, or has one that is there be closed to others. One that holds files of
// others, such as /run, stays as it is, unless everybody may write to it: then the lock could be anybody's.
func makePrivate(folder string) error {
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return err
	}
	info, err := os.Stat(folder)
	if err != nil || info.Mode().Perm()&0o077 == 0 {
		return err
	}
	if info.Mode().Perm()&0o002 != 0 {
		return fmt.Errorf("%s is writable by every user: chmod o-w %[1]s, or name another folder", folder)
	}
	entries, err := os.ReadDir(folder)
	if err != nil || slices.ContainsFunc(entries, isOfOthers) {
		return err
	}
	return os.Chmod(folder, 0o700)
}

// isOfOthers reports whether a file in runtimeDir is none that smartnatd makes.
func isOfOthers(entry os.DirEntry) bool {
	return !slices.ContainsFunc([]string{"smartnatd.", "sysctls.", "objects."}, func(prefix string) bool {
		return strings.HasPrefix(entry.Name(), prefix)
	})
}
