// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/smartnat/smartnat/pkg/testenv"
)

// everyCommand returns the words of each command that does something, with the daemon as the first.
func everyCommand() (all [][]string) {
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		if words := strings.Fields(c.CommandPath())[1:]; len(words) == 0 || !c.HasSubCommands() {
			all = append(all, words)
		}
		for _, sub := range c.Commands() {
			if sub.Name() != "completion" && sub.Name() != "help" && sub.Name() != "pages" {
				walk(sub)
			}
		}
	}
	walk(newRootCommand())
	return all
}

// arguments returns what a command cannot do without.
func arguments(command string) []string {
	switch command {
	case "explain":
		return []string{"192.0.2.10", "198.51.100.10:80"}
	case "who":
		return []string{"10.10.0.2:41023"}
	case "render":
		return []string{"-f", "testdata"}
	case "ha notify":
		return []string{"primary"}
	}
	return nil
}

// TestEveryCommandRefusesAFlagThatItDoesNotHave expects one line.
func TestEveryCommandRefusesAFlagThatItDoesNotHave(t *testing.T) {
	for _, words := range everyCommand() {
		args := append(append(words, arguments(strings.Join(words, " "))...), "--wrong")
		exit, stdout, stderr := smartnatd(t, "", args...)
		if exit != exitUsage || stdout != "" || stderr != "smartnatd: unknown flag: --wrong\n" {
			t.Errorf("%q: exit code %d, want %d, %q, %q", args, exit, exitUsage, stdout, stderr)
		}
	}
}

// TestEveryCommandRefusesTheConfigOfANewerVersion expects one line that names the file, the line and the key.
func TestEveryCommandRefusesTheConfigOfANewerVersion(t *testing.T) {
	config := filepath.Join(t.TempDir(), "smartnat.yaml")
	if err := os.WriteFile(config, []byte("source: {files: {paths: [/nonexistent]}}\ntelepathy: {to: all}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("smartnatd: %s:2: telepathy: unknown key; this version of smartnatd has none of this name, see man smartnat.yaml\n", config)
	tried := 0
	for _, words := range everyCommand() {
		command := strings.Join(words, " ")
		// A bug report collects what is wrong, and enroll reads its bundle first; both have tests of their own.
		if slices.Contains([]string{"version", "bugreport", "enroll"}, command) {
			continue
		}
		tried++
		exit, stdout, stderr := smartnatd(t, "", append(append(words, arguments(command)...), "--config", config)...)
		if exit != exitUsage || stdout != "" || stderr != want {
			t.Errorf("%q: exit code %d, want %d, %q, %q", command, exit, exitUsage, stdout, stderr)
		}
	}
	if tried < 10 {
		t.Errorf("only %d commands were tried", tried)
	}
}

// TestEveryCommandSaysThatItNeedsRoot runs the commands as a user without rights, next to files of root.
func TestEveryCommandSaysThatItNeedsRoot(t *testing.T) {
	testenv.NewNetNS(t)
	const dir = "/run/refused" // t.TempDir is closed to other users; /run is this process's own
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	config := filepath.Join(dir, "smartnat.yaml")
	text := fmt.Sprintf("source: {files: {paths: [%s/objects]}}\nstateDir: %[1]s/state\nruntimeDir: %[1]s/run\n", dir)
	if err := errors.Join(os.WriteFile(config, []byte(text), 0o644),
		os.Mkdir(filepath.Join(dir, "run"), 0o700), os.Mkdir(filepath.Join(dir, "objects"), 0o755)); err != nil {
		t.Fatal(err)
	}
	const asRoot = ": run this as root\n"
	for command, want := range map[string]struct {
		exit int
		line string // its beginning
	}{
		"":          {exitFailure, "smartnatd: opening the lock in runtimeDir: open " + dir + "/run/smartnatd.pid: permission denied" + asRoot},
		"boundary":  {exitFailure, "smartnatd: opening the lock in runtimeDir: open " + dir + "/run/smartnatd.pid: permission denied" + asRoot},
		"cleanup":   {exitFailure, "smartnatd: opening the lock in runtimeDir: open " + dir + "/run/smartnatd.pid: permission denied" + asRoot},
		"status":    {exitFailure, "smartnatd: " + dir + "/run/smartnatd.sock: permission denied: run this as root, or as a member of the group smartnat\n"},
		"diff":      {exitTrouble, "smartnatd: " + dir + "/run/smartnatd.sock: permission denied: run this as root, or as a member of the group smartnat\n"},
		"check":     {exitUsage, "smartnatd: check: "},
		"version":   {0, ""},
		"ha render": {exitUsage, "smartnatd: ha: is not set in the config, so there is no pair\n"},
	} {
		cmd := exec.Command("/proc/self/exe", append(append(strings.Fields(command), arguments(command)...), "--config", config)...)
		var stdout, stderr bytes.Buffer
		cmd.Env, cmd.Dir, cmd.Stdout, cmd.Stderr = append(os.Environ(), asProgram+"=1"), "/", &stdout, &stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534, NoSetGroups: os.Getuid() != 0}, Pdeathsig: syscall.SIGKILL}
		err := cmd.Run()
		if errors.Is(err, unix.EINVAL) {
			testenv.Lacks(t, "a second user in this user namespace")
		}
		line := stderr.String()
		if got := cmd.ProcessState.ExitCode(); got != want.exit || !strings.HasPrefix(line, want.line) || (line == "") != (want.line == "") || strings.Count(line, "\n") > 1 {
			t.Errorf("%q: exit code %d, want %d; %q, want one line that begins with %q", command, got, want.exit, line, want.line)
		}
		if command == "check" && !strings.Contains(stdout.String(), "FAILED  privileges: CAP_NET_ADMIN is missing: run as root, or by the systemd unit\n") {
			t.Errorf("check prints\n%s", stdout.String())
		}
	}
}
