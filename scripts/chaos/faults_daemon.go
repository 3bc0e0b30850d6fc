// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"context"
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"github.com/smartnat/smartnat/scripts/lab"
)

// daemonFaults are what happens to smartnatd and to what it runs. Traffic must not notice any of it.
func daemonFaults() []fault {
	return []fault{
		{name: "smartnatd killed", changes: true, quick: true, inject: killDaemon},
		{name: "smartnatd ended", changes: true, inject: endDaemon},
		{name: "smartnatd stopped", changes: true, quick: true, inject: stopDaemon},
		{name: "smartnatd reloads", quick: true, inject: reloadDaemon},
		{name: "iptables-restore fails", changes: true, inject: failRestore},
		{name: "iptables-restore missing", changes: true, inject: loseRestore},
	}
}

func killDaemon(_ context.Context, w *world, _ step) (injury, error) {
	return injury{variant: "kill -9", heal: w.daemon.Restart}, w.daemon.Kill()
}

func endDaemon(ctx context.Context, w *world, _ step) (injury, error) {
	ctx, cancel := context.WithTimeout(ctx, settlement)
	defer cancel()
	return injury{variant: "SIGTERM", heal: w.daemon.Restart}, w.daemon.End(ctx)
}

func stopDaemon(_ context.Context, w *world, _ step) (injury, error) {
	resume := func(context.Context) error { return w.daemon.Signal(unix.SIGCONT) }
	return injury{variant: "SIGSTOP", heal: resume}, w.daemon.Signal(unix.SIGSTOP)
}

// reloadDaemon has smartnatd take over a config that says something else and programs the same, or one that is wrong, and
// then the first one again.
func reloadDaemon(_ context.Context, w *world, s step) (injury, error) {
	variant, text := "another config", config()+"resync: 7m\n"
	if s.Pick%3 == 0 {
		variant, text = "a wrong config", config()+"resync: never\n"
	}
	reload := func(text string) error {
		return errors.Join(w.Host(lab.Gateway).WriteFile("/etc/smartnat.yaml", text), w.daemon.Signal(unix.SIGHUP))
	}
	return injury{variant: variant, heal: func(context.Context) error { return reload(config()) }}, reload(text)
}

// failRestore has a restore program of one family fail.
func failRestore(ctx context.Context, w *world, s step) (injury, error) {
	return w.replaceRestore(ctx, s, "#!/bin/sh\ncat >/dev/null\necho 'out of memory, says the chaos' >&2\nexit 4\n")
}

// loseRestore has it be there and not run, as halfway through an upgrade.
func loseRestore(ctx context.Context, w *world, s step) (injury, error) {
	return w.replaceRestore(ctx, s, "#!/run/no/such/program\n")
}

func (w *world) replaceRestore(ctx context.Context, s step, script string) (injury, error) {
	name := []string{"iptables-restore", "ip6tables-restore"}[s.Pick%2]
	path, err := w.restoreProgram(ctx, name)
	if err != nil {
		return injury{}, err
	}
	// Renamed into place: a file that is open for writing cannot be run.
	good, bad := path+".good", path+".bad"
	err = errors.Join(os.Link(path, good), os.WriteFile(bad, []byte(script), 0o755), os.Rename(bad, path))
	return injury{variant: name, heal: func(context.Context) error { return os.Rename(good, path) }}, err
}
