// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package program

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/iptables/rules"
	"github.com/smartnat/smartnat/pkg/iptables/ruleset"
	"github.com/smartnat/smartnat/pkg/testenv"
)

// programs sets PATH to a directory with only the iptables and ip6tables programs of the given variants.
func programs(t *testing.T, backends map[string]string) {
	t.Helper()
	dir := t.TempDir()
	for name, backend := range backends {
		for _, companion := range []string{"", "-save", "-restore"} {
			testenv.RequireTool(t, name+"-"+backend+companion)
			path, err := exec.LookPath(name + "-" + backend + companion)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(path, filepath.Join(dir, name+companion)); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Setenv("PATH", dir)
}

func TestNew(t *testing.T) {
	both := []gateway.Family{gateway.IPv4, gateway.IPv6}
	for _, tc := range []struct {
		name     string
		options  Options
		programs map[string]string
		variant  string
		families []gateway.Family
		err      string
	}{
		{name: "auto finds nf_tables", options: Options{Variant: "auto", IPv6: true}, programs: map[string]string{"iptables": "nft", "ip6tables": "nft"}, variant: NFTables, families: both},
		{name: "auto finds legacy", options: Options{IPv6: true}, programs: map[string]string{"iptables": "legacy", "ip6tables": "legacy"}, variant: Legacy, families: both},
		{name: "IPv4 alone", options: Options{Variant: "auto"}, programs: map[string]string{"iptables": "nft"}, variant: NFTables, families: both[:1]},
		{name: "one of each", options: Options{Variant: "auto", IPv6: true}, programs: map[string]string{"iptables": "nft", "ip6tables": "legacy"}, err: "iptables is the variant nf_tables, but ip6tables is legacy"},
		{name: "nothing installed", options: Options{Variant: "auto"}, err: "is the package iptables installed?"},
		{name: "IPv6 is not installed", options: Options{Variant: "auto", IPv6: true}, programs: map[string]string{"iptables": "nft"}, err: "finding ip6tables"},
		{name: "unknown variant", options: Options{Variant: "ebtables"}, err: `"ebtables" is not one of auto, nf_tables, legacy`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			programs(t, tc.programs)
			runner, err := New(tc.options)
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Fatalf("error %v, want one with %q", err, tc.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.families, runner.Families()); diff != "" || runner.Variant() != tc.variant {
				t.Errorf("variant %s, families %v", runner.Variant(), runner.Families())
			}
		})
	}
}

func TestFamilyThatIsNotProgrammed(t *testing.T) {
	programs(t, map[string]string{"iptables": "nft"})
	runner, err := New(Options{Variant: "auto"})
	if err != nil {
		t.Fatal(err)
	}
	if why := runner.WithoutIPv6(); why == nil || !strings.Contains(why.Error(), "ip6tables") {
		t.Errorf("WithoutIPv6 returns %v, want an error that names ip6tables", why)
	}
	batch := ruleset.Diff(ruleset.Ruleset{}, rules.Build(gateway.State{}, gateway.IPv6, rules.Options{Ownership: own}), own.ChainPrefix)
	_, saveErr := runner.Save(t.Context(), gateway.IPv6)
	for _, err := range []error{saveErr, runner.Restore(t.Context(), batch)} {
		if err == nil || !strings.Contains(err.Error(), "IPv6 cannot be programmed") {
			t.Errorf("error %v", err)
		}
	}
}

// lockedRunner returns a Runner whose lock is held until release is called.
func lockedRunner(t *testing.T, timeout time.Duration) (runner *Runner, release func()) {
	t.Helper()
	testenv.RequireTool(t, "iptables-legacy")
	testenv.NewNetNS(t)
	runner, err := New(Options{Variant: "legacy", LockTimeout: timeout})
	if err != nil {
		t.Fatal(err)
	}
	lock, err := os.Create("/run/xtables.lock")
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	release = func() { _ = lock.Close() }
	t.Cleanup(release)
	return runner, release
}

func TestLockThatIsHeld(t *testing.T) {
	runner, release := lockedRunner(t, time.Second)
	batch := ruleset.Diff(ruleset.Ruleset{}, rules.Build(gateway.State{}, gateway.IPv4, rules.Options{Ownership: own}), own.ChainPrefix)
	if err := runner.Restore(t.Context(), batch); !errors.Is(err, ErrLocked) {
		t.Errorf("error %v, want ErrLocked", err)
	}
	release()
	if err := runner.Restore(t.Context(), batch); err != nil {
		t.Errorf("after the release: %v", err)
	}
}

func TestContextEndsTheWait(t *testing.T) {
	runner, _ := lockedRunner(t, time.Hour)
	batch := ruleset.Diff(ruleset.Ruleset{}, rules.Build(gateway.State{}, gateway.IPv4, rules.Options{Ownership: own}), own.ChainPrefix)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := runner.Restore(ctx, batch); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrHung) {
		t.Errorf("error %v, want the context's error", err)
	}
}

func TestAProgramThatHangsIsKilled(t *testing.T) {
	runner, release := lockedRunner(t, time.Hour)
	runner.timeout = 100 * time.Millisecond
	batch := ruleset.Diff(ruleset.Ruleset{}, rules.Build(gateway.State{}, gateway.IPv4, rules.Options{Ownership: own}), own.ChainPrefix)
	if err := runner.Restore(t.Context(), batch); !errors.Is(err, ErrHung) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v, want ErrHung", err)
	}
	release()
	runner.timeout = time.Minute
	if err := runner.Restore(t.Context(), batch); err != nil {
		t.Errorf("the next run: %v", err)
	}
}

// script creates a shell script with the given name.
func script(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestAProgramThatHangsWhenItIsAsked: New fails in time and names the program that hangs when queried about itself.
func TestAProgramThatHangsWhenItIsAsked(t *testing.T) {
	for _, tc := range []struct{ name, script, hangs string }{
		{"version", `exec sleep 600`, "iptables --version"},
		{"matches", `case $* in *--help*) exec sleep 600;; *) echo "iptables v1.8.9 (legacy)";; esac`, "iptables -m set --help"},
		{"variant", `case $0 in *-restore) exec sleep 600;; *) echo "iptables v1.8.9 (legacy)";; esac`, "iptables-restore --version"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := script(t, "iptables", tc.script)
			if err := os.Link(path, path+"-restore"); err != nil {
				t.Fatal(err)
			}
			t.Setenv("PATH", filepath.Dir(path)+":"+os.Getenv("PATH"))
			_, err := newRunner(Options{}, 3*time.Second) // for the programs that do not hang
			if !errors.Is(err, ErrHung) || !strings.Contains(err.Error(), tc.hangs) {
				t.Errorf("error %v, want ErrHung naming %q", err, tc.hangs)
			}
		})
	}
}

// TestALargeBatchGetsMoreTime: a large batch gets more time than a small one or a read.
func TestALargeBatchGetsMoreTime(t *testing.T) {
	name := strings.TrimSuffix(script(t, "iptables-restore", "cat >/dev/null; exec sleep 1"), "-restore")
	if err := os.Link(name+"-restore", name+"-save"); err != nil {
		t.Fatal(err)
	}
	r := &Runner{programs: map[gateway.Family]program{gateway.IPv4: program(name)}, timeout: 100 * time.Millisecond}
	restore := func(rules int) error {
		chain := ruleset.Chain{Name: "SMARTNAT-X", Rules: slices.Repeat([]ruleset.Rule{{Foreign: "-j RETURN"}}, rules)}
		return r.Restore(t.Context(), ruleset.Batch{Family: gateway.IPv4, Tables: []ruleset.TableBatch{{Name: "nat", Write: []ruleset.Chain{chain}}}})
	}
	if err := restore(10_000); err != nil {
		t.Errorf("10,000 rules: %v", err)
	}
	if err := restore(1); !errors.Is(err, ErrHung) {
		t.Errorf("one rule: error %v, want ErrHung", err)
	}
	if _, err := r.Save(t.Context(), gateway.IPv4); !errors.Is(err, ErrHung) {
		t.Errorf("reading: error %v, want ErrHung", err)
	}
}
