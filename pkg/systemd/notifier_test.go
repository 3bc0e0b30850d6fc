// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package systemd

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
			n := FromEnvironment(log)
			n.SetStatus("in effect")
			n.Ready()
			n.Heartbeat()
			n.Stopping()
			if n.watchdog != test.watchdog {
				t.Errorf("watchdog of %v, want %v", n.watchdog, test.watchdog)
			}
			if logged := len(hook.AllEntries()) > 0; logged != test.logged {
				t.Errorf("logged %v, want %t", hook.AllEntries(), test.logged)
			}
		})
	}
}

// TestAStatusIsOneLine checks that a status is one readable line: systemd reads a new line as another assignment.
func TestAStatusIsOneLine(t *testing.T) {
	var sent []string
	n := New(func(s string) { sent = append(sent, s) }, 0)
	n.SetStatus("failed: first\nREADY=1\n  last")
	n.SetStatus(string(make([]byte, maxStatus)) + "äöü" + string(make([]byte, maxStatus)))
	if want := "STATUS=failed: first READY=1 last"; sent[0] != want {
		t.Errorf("sent %q, want %q", sent[0], want)
	}
	if got := len(sent[1]); got > maxStatus+len("STATUS=...") {
		t.Errorf("sent %d bytes", got)
	}
}
