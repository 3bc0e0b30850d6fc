// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package pair

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/smartnat/smartnat/pkg/atomicfile"
	"github.com/smartnat/smartnat/pkg/ha"
)

// noted is the content of the file with the role.
type noted struct {
	ha.Notified
	// Started and PID are those of the process that noted it: keepalived starts one for each change, and does not wait for it, so that
	// one may overtake another.
	Started uint64 `json:"started"`
	PID     int    `json:"pid"`
}

func (n noted) before(o noted) bool {
	return n.Started < o.Started || n.Started == o.Started && n.PID < o.PID
}

// Notify notes what keepalived said, and gives conntrackd the commands that follow. It does neither if keepalived has said something since.
func Notify(ctx context.Context, runtimeDir string, role ha.Role, hook *ha.Hook) error {
	started, err := startTime("/proc/self/stat")
	if err != nil {
		return err
	}
	// keepalived may run before smartnatd ever did.
	if err := os.MkdirAll(runtimeDir, 0o700); err != nil {
		return fmt.Errorf("making the folder for the role: %w", err)
	}
	this := noted{ha.Notified{Role: role, Since: time.Now().UTC()}, started, os.Getpid()}
	latest, err := this.note(runtimeDir)
	if !latest {
		return err
	}
	var all sync.WaitGroup
	var told, moved error
	all.Go(func() { told = this.tellConntrackd(ctx, runtimeDir) })
	if hook != nil {
		all.Go(func() { moved = this.moveAddresses(ctx, runtimeDir, *hook) })
	}
	all.Wait()
	return errors.Join(err, told, moved)
}

// tellConntrackd gives conntrackd the commands of the role. One process at a time does that, so that those of the last role come last.
func (n noted) tellConntrackd(ctx context.Context, runtimeDir string) error {
	return locked(ha.RoleFile(runtimeDir)+".commands", func() error {
		if last, err := readNoted(runtimeDir); err == nil && n.before(last) {
			return nil
		}
		var told error
		for _, arguments := range ha.Commands(n.Role) {
			told = errors.Join(told, Conntrackd(ctx, arguments...))
		}
		return told
	})
}

// note reports whether this is the last that keepalived said, as far as that is known.
func (n noted) note(runtimeDir string) (latest bool, err error) {
	latest = true
	err = locked(ha.RoleFile(runtimeDir)+".lock", func() error {
		last, err := readNoted(runtimeDir)
		if err == nil && n.before(last) {
			latest = false
			return nil
		}
		if err == nil && last.Role == n.Role { // it is said again
			n.Since = last.Since
		}
		text, err := json.Marshal(n)
		if err != nil {
			return err
		}
		return atomicfile.Write(ha.RoleFile(runtimeDir), append(text, '\n'), 0o600)
	})
	if err != nil {
		return latest, fmt.Errorf("noting the role: %w", err)
	}
	return latest, nil
}

// locked runs a function while no other process does with the same file.
func locked(path string, run func() error) error {
	lock, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("opening the lock: %w", err)
	}
	defer lock.Close()
	for {
		if err = unix.Flock(int(lock.Fd()), unix.LOCK_EX); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("locking %s: %w", path, err)
	}
	return run()
}

// startTime returns when the process of a stat file started, in clock ticks since the boot (proc_pid_stat(5), starttime).
func startTime(path string) (uint64, error) {
	const afterName = 22 - 3 // the fields before it, without those up to the name, which may have spaces
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, fmt.Errorf("reading when this process started: %w", err)
	}
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	if len(fields) <= afterName {
		return 0, fmt.Errorf("%s: has only %d fields behind the name", path, len(fields))
	}
	started, err := strconv.ParseUint(fields[afterName], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	return started, nil
}

func readNoted(runtimeDir string) (noted, error) {
	var last noted
	text, err := os.ReadFile(ha.RoleFile(runtimeDir))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return last, nil
	case err == nil:
		err = json.Unmarshal(text, &last)
	}
	if err != nil {
		return noted{}, fmt.Errorf("reading the role: %w", err)
	}
	return last, nil
}

// ReadRole returns what keepalived said last, or nothing if it said nothing yet.
func ReadRole(runtimeDir string) (ha.Notified, error) {
	last, err := readNoted(runtimeDir)
	return last.Notified, err
}
