// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/smartnat/smartnat/pkg/ha"
)

// haConfig writes a config of a pair with one link, in a folder of its own.
func haConfig(t *testing.T, more string) string {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "smartnat.yaml")
	text := "instance: gw1\nsource: {files: {paths: [/objects]}}\nruntimeDir: " + dir + "\n" + more
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

const onePair = "ha: {syncLink: lo, syncAddress: 10.99.0.1, peer: 10.99.0.2, links: [{interface: eth1, virtualAddresses: [198.51.100.20], addresses: [198.51.100.11], peers: [198.51.100.12]}]}\n"

func TestHARender(t *testing.T) {
	path := haConfig(t, onePair)
	exit, stdout, stderr := smartnatd(t, "", "ha", "render", "keepalived", "--config", path)
	if exit != 0 || stderr != "" || !strings.Contains(stdout, "vrrp_instance eth1-ipv4") || strings.Contains(stdout, "Sync {") {
		t.Errorf("exit code %d, %s\n%s", exit, stderr, stdout)
	}
	if exit, stdout, _ = smartnatd(t, "", "ha", "render", "--config", path); exit != 0 || !strings.Contains(stdout, "# /etc/conntrackd/conntrackd.conf\n") || !strings.Contains(stdout, "Restart=always") {
		t.Errorf("all: exit code %d\n%s", exit, stdout)
	}
	to := t.TempDir()
	if exit, stdout, stderr = smartnatd(t, "", "ha", "render", "--output", to, "--config", path); exit != 0 || stderr != "" {
		t.Errorf("--output: exit code %d, %s", exit, stderr)
	}
	wrote := strings.Split(strings.TrimSpace(stdout), "\n")
	if len(wrote) != 5 {
		t.Errorf("--output wrote %q", wrote)
	}
	for _, line := range wrote {
		if text, err := os.ReadFile(strings.TrimPrefix(line, "wrote   ")); err != nil || len(text) == 0 {
			t.Errorf("%s: %v", line, err)
		}
	}
}

// TestHAWithWrongArguments expects one line and exit code 2.
func TestHAWithWrongArguments(t *testing.T) {
	for _, test := range []struct {
		config, want string
		args         []string
	}{
		{onePair, `"vrrpd": want keepalived, conntrackd or units, or nothing for all`, []string{"render", "vrrpd"}},
		{"", "ha: is not set in the config, so there is no pair", []string{"render"}},
		{"", "ha: is not set in the config, so there is no pair", []string{"notify", "primary"}},
		{onePair, "want one of the roles [primary backup fault stopped]", []string{"notify", "king"}},
		{onePair, "want one of the roles", []string{"notify"}},
	} {
		exit, stdout, stderr := smartnatd(t, "", append([]string{"ha", "--config", haConfig(t, test.config)}, test.args...)...)
		if exit != exitUsage || stdout != "" || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, test.want) {
			t.Errorf("%v: exit code %d, %q, want %q", test.args, exit, stderr, test.want)
		}
	}
}

// TestHANotifyWithoutConntrackd expects the role to be noted, and one line for each command that did not reach conntrackd.
func TestHANotifyWithoutConntrackd(t *testing.T) {
	path := haConfig(t, onePair)
	t.Setenv("PATH", t.TempDir())
	exit, _, stderr := smartnatd(t, "", "ha", "notify", "primary", "--config", path)
	if exit != exitFailure || strings.Count(stderr, "\n") != 2 || strings.Count(stderr, "conntrackd is not installed: connections do not survive a takeover") != 2 {
		t.Errorf("exit code %d, %q", exit, stderr)
	}
	if text := readFile(t, filepath.Join(filepath.Dir(path), "ha-role")); !strings.Contains(text, `"role":"primary","since":"2`) {
		t.Errorf("noted %s", text)
	}
	// smartnatd has not run yet, so that its folder is missing.
	path = haConfig(t, "")
	missing := filepath.Join(filepath.Dir(path), "run")
	text := strings.Replace(readFile(t, path), "runtimeDir: "+filepath.Dir(path), "runtimeDir: "+missing, 1) + onePair
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if exit, _, stderr = smartnatd(t, "", "ha", "notify", "stopped", "--config", path); exit != 0 || stderr != "" {
		t.Errorf("stopped: exit code %d, %q", exit, stderr)
	}
}

// TestHACheckWithoutDaemon expects a failure where no smartnatd runs. The script stays quiet, because no peer is better off.
func TestHACheckWithoutDaemon(t *testing.T) {
	path := haConfig(t, onePair)
	exit, stdout, _ := smartnatd(t, "", "ha", "check", "--config", path)
	if exit != exitUsage || !strings.Contains(stdout, "FAILED  ha: no smartnatd runs with this config") || strings.Count(stdout, "\n") != 1 {
		t.Errorf("check: exit code %d\n%s", exit, stdout)
	}
	if exit, stdout, stderr := smartnatd(t, "", "ha", "check", "--script", "--config", path); exit != 0 || stdout+stderr != "" {
		t.Errorf("check --script: exit code %d\n%s%s", exit, stdout, stderr)
	}
	if exit, _, stderr := smartnatd(t, "", "ha", "status", "--config", path); exit != exitFailure || !strings.Contains(stderr, "no smartnatd runs") {
		t.Errorf("status: exit code %d, %s", exit, stderr)
	}
	for _, command := range []string{"check", "status"} {
		if exit, _, stderr := smartnatd(t, "", "ha", command, "--config", haConfig(t, "")); exit == 0 || strings.Count(stderr, "\n") != 1 {
			t.Errorf("%s without a pair: exit code %d, %s", command, exit, stderr)
		}
	}
}

// TestHAWithInvalidConfig expects that a mistake in the config, which may have reached both boxes, makes neither of them give up the
// addresses, and that the role is noted.
func TestHAWithInvalidConfig(t *testing.T) {
	for name, more := range map[string]string{"a wrong key": onePair + "telepathy: true\n", "no pair": "", "no YAML": "\t{"} {
		exit, stdout, stderr := smartnatd(t, "", "ha", "check", "--script", "--config", haConfig(t, more))
		if exit != 0 || stdout != "" || !strings.HasPrefix(stderr, "smartnatd: ") || strings.Count(stderr, "\n") != 1 {
			t.Errorf("%s: check --script: exit code %d, %q, %q", name, exit, stdout, stderr)
		}
		// keepalived.conf names what notify needs.
		dir := t.TempDir()
		if exit, _, stderr = smartnatd(t, "", "ha", "notify", "stopped", "--runtime-dir", dir, "--config", haConfig(t, more)); exit != 0 || stderr != "" {
			t.Errorf("%s: notify: exit code %d, %q", name, exit, stderr)
		}
		if text := readFile(t, filepath.Join(dir, "ha-role")); !strings.Contains(text, `"role":"stopped"`) {
			t.Errorf("%s: noted %s", name, text)
		}
	}
	if exit, _, stderr := smartnatd(t, "", "ha", "check", "--script", "--config", "/nonexistent/smartnat.yaml"); exit != 0 || !strings.Contains(stderr, "/nonexistent/smartnat.yaml") {
		t.Errorf("no config: check --script: exit code %d, %q", exit, stderr)
	}
}

// TestNoVerdictIsNoFailure has a check that hangs, as on a box that is too slow to read its config, or that has to end.
func TestNoVerdictIsNoFailure(t *testing.T) {
	hang := func(ctx context.Context) error {
		<-ctx.Done()
		select {} // also with a context that ended
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for name, try := range map[string]func() error{
		"too slow":    func() error { return within(t.Context(), time.Millisecond, hang) },
		"interrupted": func() error { return within(ended, time.Hour, hang) },
	} {
		if err := try(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	failed := errors.New("the peer is better off")
	if err := within(t.Context(), time.Hour, func(context.Context) error { return failed }); !errors.Is(err, failed) {
		t.Errorf("a verdict: %v", err)
	}
}

func TestPairRowsOfCopiesAndHook(t *testing.T) {
	now := time.Unix(1000, 0)
	for name, test := range map[string]struct {
		status ha.Status
		want   [][]string
	}{
		"no hook": {ha.Status{}, nil},
		"right": {ha.Status{Copying: &ha.Copying{Own: 3, Copied: 4}, Hook: &ha.HookResult{Role: ha.Primary, Attempts: 1, Ended: now.Add(-5 * time.Second)}}, [][]string{
			{"copies", "3 own, 4 from the peer since conntrackd started"}, {"hook", "primary succeeded at call 1, 5s ago"},
		}},
		"wrong": {ha.Status{Copying: &ha.Copying{NotCopied: 1, Lost: 2}, Hook: &ha.HookResult{Role: ha.Backup, Attempts: 3, Problem: "exit status 1"}}, [][]string{
			{"copies", "0 own, 0 from the peer since conntrackd started"},
			{"not copied", "1 refused by the kernel, 2 messages lost, 0 malformed, 0 errors of sending, 0 of receiving"}, {"hook", "backup failed 3 times: exit status 1"},
		}},
	} {
		rows := pairRows(test.status, now)[3:] // role, peer, sync
		if diff := cmp.Diff(test.want, rows, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}
