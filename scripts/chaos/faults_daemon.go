// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/smartnat/smartnat/scripts/lab"
)

// daemonFaults returns faults of smartnatd and of the programs that it runs. Traffic must not notice any of them.
func daemonFaults() []fault {
	return []fault{
		{name: "smartnatd killed", changes: true, quick: true, inject: killDaemon},
		{name: "smartnatd ended", changes: true, inject: endDaemon},
		{name: "smartnatd stopped", changes: true, quick: true, inject: stopDaemon},
		{name: "smartnatd reloads", quick: true, inject: reloadDaemon},
		{name: "iptables-restore fails", dataplane: planeIPTables, changes: true, inject: failRestore},
		{name: "iptables-restore missing", dataplane: planeIPTables, changes: true, inject: loseRestore},
		{name: "iptables-restore hangs", dataplane: planeIPTables, changes: true, inject: hangRestore},
		{name: "smartnatd killed at a write", dataplane: planeIPTables, changes: true, quick: true, inject: killWriting},
		{name: "smartnatd killed at a transaction", dataplane: planeNFTables, changes: true, quick: true, inject: killAtTransaction},
		{name: "saved objects damaged", changes: true, alone: true, inject: damageSaved},
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

// reloadDaemon makes smartnatd load another config that programs the same rules, or an invalid one, and then the first one
// again.
func reloadDaemon(_ context.Context, w *world, s step) (injury, error) {
	variant, text := "another config", w.config()+"resync: 7m\n"
	if s.Pick%3 == 0 {
		variant, text = "a wrong config", w.config()+"resync: never\n"
	}
	reload := func(text string) error {
		return errors.Join(w.Host(lab.Gateway).WriteFile("/etc/smartnat.yaml", text), w.daemon.Signal(unix.SIGHUP))
	}
	return injury{variant: variant, heal: func(context.Context) error { return reload(w.config()) }}, reload(text)
}

// failRestore makes the restore program of one family fail.
func failRestore(ctx context.Context, w *world, s step) (injury, error) {
	return w.replaceRestore(ctx, s, "#!/bin/sh\ncat >/dev/null\necho 'out of memory, says the chaos' >&2\nexit 4\n")
}

// loseRestore makes it exist but not run, as halfway through an upgrade.
func loseRestore(ctx context.Context, w *world, s step) (injury, error) {
	return w.replaceRestore(ctx, s, "#!/run/no/such/program\n")
}

// hangRestore makes it hang, and finally continue as if nothing had happened.
func hangRestore(ctx context.Context, w *world, s step) (injury, error) {
	return w.replaceRestore(ctx, s, w.forDaemon(`while [ -e "$0.good" ]; do sleep 0.1; done; exec "$0" "$@"`))
}

// manners are the ways in which a restore program kills smartnatd, its parent.
var manners = []struct{ name, script string }{
	{"before it", `kill -9 $PPID; exit 1`},
	{"before it, which comes all the same", `kill -9 $PPID; exec "$0.good" "$@"`},
	{"in the first table", `sed '/^COMMIT/,$d' | "$0.good" "$@"; kill -9 $PPID; exit 1`},
	{"behind the first table", `sed '/^COMMIT/q' | "$0.good" "$@"; kill -9 $PPID; exit 1`},
	{"behind it", `"$0.good" "$@"; kill -9 $PPID; exit 1`},
}

// killWriting kills smartnatd when it writes the change.
func killWriting(ctx context.Context, w *world, s step) (injury, error) {
	m, canary := manners[s.Pick/2%uint32(len(manners))], w.canary
	done, err := w.replaceRestore(ctx, s, w.forDaemon(m.script))
	mend := done.heal
	return injury{variant: done.variant + ", " + m.name, heal: func(ctx context.Context) error {
		// A second fault may keep the change from smartnatd. The restart then kills it.
		if s.Second == nil && w.canary != canary {
			select {
			case <-w.daemon.Done():
			case <-time.After(settlement):
				return errors.New("a change was not written")
			}
		}
		return errors.Join(mend(ctx), w.daemon.Restart(ctx))
	}}, err
}

// killAtTransaction kills smartnatd once the kernel has executed the transaction of a family for the next change.
func killAtTransaction(_ context.Context, w *world, s step) (injury, error) {
	nth := 1 + int(s.Pick%2)
	killed, canary := make(chan error, 1), w.canary
	go func() { killed <- errors.Join(w.Host(lab.Gateway).AwaitTransaction(nth, settlement), w.daemon.Kill()) }()
	return injury{variant: []string{"of the first family", "of the second family"}[nth-1], heal: func(ctx context.Context) error {
		// A second fault may keep the change from smartnatd.
		var err error
		if s.Second == nil && w.canary != canary {
			err = <-killed
		}
		return errors.Join(err, w.daemon.Restart(ctx))
	}}, nil
}

// damageSaved starts smartnatd without its saved objects while no relay answers: the kernel must keep its state.
func damageSaved(ctx context.Context, w *world, s step) (injury, error) {
	const saved = "/var/lib/smartnat/objects.jsonl"
	gateway, nodes := w.Host(lab.Gateway), []string{lab.Node1, lab.Node2}
	// While the file is marked as outdated, smartnatd would not even read it.
	if err := poll(ctx, func(ctx context.Context) error { return w.on(ctx, "! [ -e /run/smartnat/objects.outdated ]") }); err != nil {
		return injury{}, err
	}
	text, err := gateway.ReadFile(saved)
	if err != nil {
		return injury{}, err
	}
	damage := []struct{ name, text string }{{"torn", text[:len(text)*2/3]}, {"empty", ""}, {"another's", "it works!\n"}}[s.Pick%3]
	err = errors.Join(w.swallow(ctx, "-I", nodes), w.daemon.Kill(), gateway.WriteFile(saved, damage.text))
	if err != nil {
		return injury{}, err
	}
	skip, started := len(w.daemon.Log()), make(chan error, 1)
	go func() { started <- w.daemon.Restart(ctx) }()
	err = poll(ctx, func(context.Context) error {
		if !strings.Contains(w.daemon.Log()[skip:], "cannot use saved snapshot, waiting for server") {
			return errors.New("smartnatd does not report that its saved objects are damaged")
		}
		return nil
	})
	return injury{variant: damage.name, heal: func(ctx context.Context) error {
		// The next fault that kills smartnatd needs the saved objects.
		return errors.Join(w.swallow(ctx, "-D", nodes), <-started, poll(ctx, func(context.Context) error {
			text, err := gateway.ReadFile(saved)
			if err == nil && !strings.Contains(text, "sha256") {
				err = fmt.Errorf("%s is still damaged", saved)
			}
			return err
		}))
	}}, err
}

// forDaemon returns a script that replaces a restore program for smartnatd only; other callers get the real one.
func (w *world) forDaemon(script string) string {
	return fmt.Sprintf("#!/bin/sh\n[ $PPID = %d ] || exec \"$0.good\" \"$@\"\n%s\n", w.daemon.PID(), script)
}

func (w *world) replaceRestore(ctx context.Context, s step, script string) (injury, error) {
	name := []string{"iptables-restore", "ip6tables-restore"}[s.Pick%2]
	path, err := w.restoreProgram(ctx, name)
	if err != nil {
		return injury{}, err
	}
	// Rename it into place: a file that is open for writing cannot be executed.
	good, bad := path+".good", path+".bad"
	err = errors.Join(os.Link(path, good), os.WriteFile(bad, []byte(script), 0o755), os.Rename(bad, path))
	return injury{variant: name, heal: func(context.Context) error { return os.Rename(good, path) }}, err
}
