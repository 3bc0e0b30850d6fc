// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package pair

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/smartnat/smartnat/pkg/ha"
)

func writeHook(t *testing.T, dir, script string) ha.Hook {
	t.Helper()
	path := filepath.Join(dir, "hook")
	if err := os.WriteFile(path, []byte("#!/bin/sh\ncd "+dir+"\n"+script+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	return ha.Hook{Path: path, Instance: "gw1", Addresses: []string{"eth1=198.51.100.20", "eth0=10.10.0.9"}}
}

func TestHook(t *testing.T) {
	atOnce := func(int) time.Duration { return 0 }
	// The marker makes the second call succeed.
	const second = `[ -e marker ] && exit 0; touch marker; `
	for _, test := range []struct {
		name, script string
		timeout      time.Duration
		attempts     int
		problem      string
		fails        bool
	}{
		{"gets the role and the addresses", `[ "$1 $SMARTNAT_HA_ROLE $SMARTNAT_HA_INSTANCE $SMARTNAT_HA_ADDRESSES" = "primary primary gw1 eth1=198.51.100.20 eth0=10.10.0.9" ]`, time.Minute, 1, "", false},
		{"fails once", second + "exit 1", time.Minute, 2, "", false},
		{"hangs with a child", second + "sleep 1000 & sleep 1000", 2 * time.Second, 2, "", false},
		{"always fails, and says why", `printf 'no\033[2J rights\n' >&2; exit 3`, time.Minute, ha.HookAttempts, `: exit status 3: "no\x1b[2J rights"`, true},
		{"says too much", `head -c 100000 /dev/zero | tr '\0' x; exit 1`, time.Minute, ha.HookAttempts, `: exit status 1: "` + strings.Repeat("x", maxTail) + `"`, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			hook := writeHook(t, dir, test.script)
			this := noted{ha.Notified{Role: ha.Primary}, 100, 7}
			if _, err := this.note(dir); err != nil {
				t.Fatal(err)
			}
			if err := this.callHook(t.Context(), dir, hook, test.timeout, atOnce); (err != nil) != test.fails {
				t.Errorf("error %v", err)
			}
			result, err := ReadHook(dir)
			if err != nil || result == nil || result.Role != ha.Primary || result.Attempts != test.attempts || !strings.HasSuffix(result.Problem, test.problem) || (result.Problem == "") != (test.problem == "") {
				t.Errorf("result %+v, %v", result, err)
			}
		})
	}
}

// TestHookOfAnEarlierRole expects that a call ends when the role changes, since the next call is that of the last role.
func TestHookOfAnEarlierRole(t *testing.T) {
	dir := t.TempDir()
	hook := writeHook(t, dir, "mkfifo running; echo >running; sleep 1000")
	ended := make(chan error)
	go func() {
		ended <- noted{ha.Notified{Role: ha.Primary}, 100, 7}.callHook(t.Context(), dir, hook, time.Minute, ha.HookPause)
	}()
	for { // until it runs
		if _, err := os.ReadFile(filepath.Join(dir, "running")); err == nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if _, err := (noted{ha.Notified{Role: ha.Backup}, 200, 8}).note(dir); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if result, err := ReadHook(dir); result != nil || err != nil {
		t.Errorf("result %+v, %v", result, err)
	}
}

// TestHookIsCalledTwiceForARole expects that calls for one role follow each other, and that those that waited become one.
func TestHookIsCalledTwiceForARole(t *testing.T) {
	dir := t.TempDir()
	// The first call waits until it is read.
	hook := writeHook(t, dir, "mkdir alone || exit 1; echo call >>calls; [ -e running ] || { mkfifo running; echo >running; }; rmdir alone")
	var ended sync.WaitGroup
	call := func(pid int) {
		this := noted{ha.Notified{Role: ha.Primary}, uint64(100 * pid), pid}
		if latest, err := this.note(dir); !latest || err != nil {
			t.Fatal(latest, err)
		}
		ended.Go(func() {
			if err := this.moveAddresses(t.Context(), dir, hook); err != nil {
				t.Error(err)
			}
		})
	}
	call(1)
	for { // until it runs
		if _, err := os.Stat(filepath.Join(dir, "running")); err == nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	for pid := 2; pid <= 5; pid++ {
		call(pid)
	}
	if _, err := os.ReadFile(filepath.Join(dir, "running")); err != nil {
		t.Fatal(err)
	}
	ended.Wait()
	if calls, err := os.ReadFile(filepath.Join(dir, "calls")); err != nil || string(calls) != strings.Repeat("call\n", 2) {
		t.Errorf("%q, %v: want the call that ran and the last one", calls, err)
	}
	if result, err := ReadHook(dir); err != nil || result == nil || result.Attempts != 1 || result.Problem != "" {
		t.Errorf("result %+v, %v", result, err)
	}
}

// TestHookOfOthers expects that a program that another user could replace does not run.
func TestHookOfOthers(t *testing.T) {
	dir := t.TempDir()
	hook := writeHook(t, dir, "touch ran")
	if err := os.Chmod(hook.Path, 0o702); err != nil {
		t.Fatal(err)
	}
	if err := runHook(t.Context(), hook, ha.Primary, time.Minute); err == nil || !strings.HasPrefix(err.Error(), "not calling the hook: "+hook.Path+" is writable by others (mode 0702)") {
		t.Errorf("error %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "ran")); err == nil {
		t.Error("it ran")
	}
}

func TestNoHookWasCalled(t *testing.T) {
	dir := t.TempDir()
	if result, err := ReadHook(dir); result != nil || err != nil {
		t.Errorf("result %+v, %v", result, err)
	}
	if err := os.WriteFile(ha.HookFile(dir), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadHook(dir); err == nil {
		t.Error("half a result is no error")
	}
}
