// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// errRunning is returned if another process holds the lock.
var errRunning = errors.New("smartnatd is already running")

// lockInstance makes this process the only writer to the host for this runtime directory, until it ends or closes the result.
func lockInstance(runtimeDir string) (io.Closer, error) {
	if err := makePrivate(runtimeDir); err != nil {
		return nil, asRoot(fmt.Errorf("making runtimeDir: %w", err))
	}
	// The mode excludes other users: a user who can open the file, even read-only, can lock it.
	file, err := os.OpenFile(filepath.Join(runtimeDir, "smartnatd.pid"), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, asRoot(fmt.Errorf("opening the lock in runtimeDir: %w", err))
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
	// The pid only serves the error message of a second process; on a full disk it is missing.
	if err := file.Truncate(0); err == nil {
		_, _ = fmt.Fprintln(file, os.Getpid())
	}
	return file, nil
}

// asRoot says what is right if another user than root is refused.
func asRoot(err error) error {
	if errors.Is(err, fs.ErrPermission) && os.Geteuid() != 0 {
		return fmt.Errorf("%w: run this as root", err)
	}
	return err
}

// makePrivate creates a folder for this user alone, or closes an existing one to others. A folder with files of other programs,
// such as /run, keeps its mode. A world-writable one is an error: any user could take the lock.
func makePrivate(folder string) error {
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return err
	}
	info, err := os.Stat(folder)
	if err != nil || info.Mode().Perm()&0o067 == 0 { // The unit lets a group enter, which opens no file.
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

// isOfOthers reports whether smartnatd does not create this file in runtimeDir.
func isOfOthers(entry os.DirEntry) bool {
	return !slices.ContainsFunc([]string{"smartnatd.", "sysctls.", "objects."}, func(prefix string) bool {
		return strings.HasPrefix(entry.Name(), prefix)
	})
}
