// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	logtest "github.com/sirupsen/logrus/hooks/test"
)

// TestWhatSystemdSaysMayBeWrong checks that a wrong environment from systemd is logged, and smartnatd works regardless.
func TestWhatSystemdSaysMayBeWrong(t *testing.T) {
	const microseconds, process = "WATCHDOG_USEC", "WATCHDOG_PID"
	for _, test := range []struct {
		name     string
		env      map[string]string
		watchdog time.Duration
		logged   bool
	}{
		{"nothing", nil, 0, false},
		{"a watchdog", map[string]string{microseconds: "20000000"}, 20 * time.Second, false},
		{"of another process", map[string]string{microseconds: "20000000", process: strconv.Itoa(os.Getpid() + 1)}, 0, false},
		{"of no process", map[string]string{microseconds: "20000000", process: "me"}, 0, true},
		{"no number", map[string]string{microseconds: "soon"}, 0, true},
		{"at once", map[string]string{microseconds: "0"}, 0, true},
		{"before", map[string]string{microseconds: "-5"}, 0, true},
		{"no number of this size", map[string]string{microseconds: strings.Repeat("9", 30)}, 0, true},
		{"no listener at the socket", map[string]string{"NOTIFY_SOCKET": filepath.Join(t.TempDir(), "none")}, 0, true},
		{"no path of a socket", map[string]string{"NOTIFY_SOCKET": strings.Repeat("/x", 200)}, 0, true},
		{"no listener at an abstract socket", map[string]string{"NOTIFY_SOCKET": "@smartnat-test-" + strconv.Itoa(int(time.Now().UnixNano()))}, 0, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, name := range []string{microseconds, process, "NOTIFY_SOCKET"} {
				t.Setenv(name, test.env[name])
			}
			log, hook := logtest.NewNullLogger()
			m := newManager(log)
			m.say("in effect")
			m.ready()
			m.alive()
			m.stopping()
			if m.watchdog != test.watchdog {
				t.Errorf("watchdog of %v, want %v", m.watchdog, test.watchdog)
			}
			if logged := len(hook.AllEntries()) > 0; logged != test.logged {
				t.Errorf("logged %v, want %t", hook.AllEntries(), test.logged)
			}
		})
	}
}
