// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/iptables/program"
	"github.com/smartnat/smartnat/pkg/testenv"
)

func TestChoiceOfTheDataplane(t *testing.T) {
	testenv.RequireTool(t, "iptables")
	refused := fmt.Errorf("RULE_APPEND failed: %w", gateway.ErrRefused)
	for _, test := range []struct {
		name, configured string
		// missing means that no program is installed.
		missing bool
		trial   error
		want    string
		reason  string
	}{
		{"iptables works", config.DataplaneAuto, false, nil, config.DataplaneIPTables, "iptables accepts a trial rule"},
		{"no program", config.DataplaneAuto, true, nil, config.DataplaneNFTables, "iptables is not installed: iptables: finding iptables"},
		{"no modules", config.DataplaneAuto, false, refused, config.DataplaneNFTables, "iptables does not work: RULE_APPEND failed"},
		{"a lock", config.DataplaneAuto, false, program.ErrLocked, config.DataplaneIPTables, "the trial of iptables was inconclusive: another program holds the lock"},
		{"a program that hangs", config.DataplaneAuto, false, program.ErrHung, config.DataplaneIPTables, "the trial of iptables was inconclusive: "},
		{"nftables", config.DataplaneNFTables, true, nil, config.DataplaneNFTables, "in the config"},
		{"iptables", config.DataplaneIPTables, false, refused, config.DataplaneIPTables, "in the config"},
		{"iptables without a program", config.DataplaneIPTables, true, nil, "", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.missing {
				t.Setenv("PATH", t.TempDir())
			}
			cfg := config.Default()
			cfg.Dataplane = test.configured
			got, err := choosePlane(cfg, func(*program.Runner) error { return test.trial })
			if got.name != test.want || !strings.Contains(got.reason, test.reason) || (err != nil) != (test.want == "") {
				t.Errorf("%q because %q, error %v; want %q because %q", got.name, got.reason, err, test.want, test.reason)
			}
			if (got.programs != nil) != (got.name == config.DataplaneIPTables) {
				t.Errorf("%s has programs: %t", got.name, got.programs != nil)
			}
		})
	}
}

// TestTrialsAreRecorded checks that the next start repeats the outcome of a trial without a trial, and that a file that is
// missing, damaged, of another boot or of another variant only costs one.
func TestTrialsAreRecorded(t *testing.T) {
	testenv.RequireTool(t, "iptables-nft")
	testenv.RequireTool(t, "iptables-legacy")
	newPrograms := func(variant string) *program.Runner {
		programs, err := program.New(program.Options{Variant: variant})
		if err != nil {
			t.Fatal(err)
		}
		return programs
	}
	nf, legacy := newPrograms(config.VariantNFTables), newPrograms(config.VariantLegacy)
	refused := fmt.Errorf("line 3,\n\"-A\": %w", gateway.ErrRefused)
	for _, test := range []struct {
		name string
		// first is the outcome of the first trial.
		first error
		// between happens before the second one, which runs the programs second.
		between func(t *testing.T, file string)
		second  *program.Runner
		trials  int
		refused bool
	}{
		{"worked", nil, nil, nf, 1, false},
		{"refused", refused, nil, nf, 1, true},
		{"a lock", program.ErrLocked, nil, nf, 2, false},
		{"another variant", nil, nil, legacy, 2, false},
		{"a reboot that kept the file", refused, func(t *testing.T, file string) {
			_, rest, _ := strings.Cut(readFile(t, file), " ")
			write(t, file, "00000000-0000-0000-0000-000000000000 "+rest)
		}, nf, 2, false},
		{"cut off", refused, func(t *testing.T, file string) { write(t, file, strings.TrimSuffix(readFile(t, file), "\n")) }, nf, 2, false},
		{"another word", nil, func(t *testing.T, file string) {
			write(t, file, strings.Replace(readFile(t, file), "works", "worked", 1))
		}, nf, 2, false},
		{"garbage", nil, func(t *testing.T, file string) { write(t, file, "\x00\xff") }, nf, 2, false},
		{"a folder", nil, func(t *testing.T, file string) {
			if err := errors.Join(os.Remove(file), os.Mkdir(file, 0o700), os.WriteFile(file+"/x", nil, 0o600)); err != nil {
				t.Fatal(err)
			}
		}, nf, 2, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			trials, outcome := 0, test.first
			try := tryOnce(dir, false, func(*program.Runner) error { trials++; return outcome })
			if err := try(nf); !errors.Is(err, test.first) {
				t.Errorf("the first trial: %v, want %v", err, test.first)
			}
			if test.between != nil {
				test.between(t, filepath.Join(dir, trialFile))
			}
			outcome = nil
			if err := try(test.second); errors.Is(err, gateway.ErrRefused) != test.refused || (err != nil) != test.refused {
				t.Errorf("the second time: %v, want it refused: %t", err, test.refused)
			}
			if trials != test.trials {
				t.Errorf("%d trials, want %d", trials, test.trials)
			}
		})
	}
}

// TestTrialLeavesNothing tries iptables in the kernel.
func TestTrialLeavesNothing(t *testing.T) {
	for _, variant := range []string{config.VariantNFTables, config.VariantLegacy} {
		newHost(t)
		cfg := config.Default()
		cfg.IPTables.Variant = variant
		programs, err := newIPTables(cfg)
		if err != nil {
			t.Fatal(err)
		}
		if err := tryIPTables(t.Context(), cfg, programs); err != nil {
			t.Error(err)
		}
		if held := ours(t); held["nf_tables"] || held["legacy"] {
			t.Errorf("%s: the trial left rules: %v", variant, held)
		}
	}
}

// TestRenderedTextLoads checks that nft takes what render prints.
func TestRenderedTextLoads(t *testing.T) {
	testenv.RequireTool(t, "nft")
	testenv.NewNetNS(t)
	exit, stdout, stderr := smartnatd(t, "", "render", "--dataplane", "nftables", "-f", "testdata/mapping.yaml", "-f", "testdata/service.yaml")
	if exit != 0 {
		t.Fatal(stderr)
	}
	nft(t, stdout)
	if loaded := output(t, "nft", "list", "table", "ip", "smartnat"); !strings.Contains(loaded, "vmap @frontends") {
		t.Errorf("loaded, but the table is\n%s", loaded)
	}
}

// TestWithoutPrograms runs smartnatd on a host that has none of the programs of netfilter. It forwards, with rules that need
// nothing of iptables in the kernel.
func TestWithoutPrograms(t *testing.T) {
	configFile := newRoutedHost(t, "")
	systemd := supervise(t)
	program := startProgram(t, systemd, configFile, "PATH="+t.TempDir())
	awaitWord(t, systemd, "READY=1", 1)
	flow := startTraffic(t)
	flow.end(t)
	for _, said := range []string{"dataplane=nftables", "iptables is not installed"} {
		program.awaitLog(t, said, 1)
	}
	for _, family := range []string{"ip", "ip6"} {
		out, err := exec.Command("nft", "--debug=netlink", "list", "table", family, "smartnat").CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		expressions := expressionsOf(string(out))
		if len(expressions) == 0 || family == "ip" && !slices.Contains(expressions, "nat") {
			t.Errorf("no rules in\n%s", out)
		}
		for _, name := range []string{"match", "target"} {
			if slices.Contains(expressions, name) {
				t.Errorf("an expression of nft_compat, %s, in\n%s", name, out)
			}
		}
	}
	program.end(t)
	t.Setenv("PATH", t.TempDir())
	if exit, stdout, stderr := smartnatd(t, "", "cleanup", "--config", configFile); exit != 0 || !strings.HasPrefix(stdout, "removed: ") {
		t.Errorf("cleanup: exit code %d, %s%s", exit, stdout, stderr)
	}
}

// expressionsOf returns the names of expressions in a listing with --debug=netlink: "  [ payload load 4b ... ]".
func expressionsOf(listing string) []string {
	var names []string
	for line := range strings.Lines(listing) {
		if words := strings.Fields(line); len(words) > 2 && words[0] == "[" {
			names = append(names, words[1])
		}
	}
	return names
}

// TestFlowtableOrWhyNot expects a reason for people, and on this kernel the same answer as that of nft(8).
func TestFlowtableOrWhyNot(t *testing.T) {
	testenv.NewNetNS(t)
	cfg := config.Default()
	nft := plane{name: config.DataplaneNFTables}
	off := cfg
	off.Flowtable = config.FlowtableOff
	for _, test := range []struct {
		plane plane
		cfg   config.Config
		want  string
	}{
		{plane{name: config.DataplaneIPTables, programs: &program.Runner{}}, cfg, "off: the data plane is iptables"},
		{nft, off, "off: flowtable is off in the config"},
	} {
		if got := spellFlowtable(test.plane.flowtable(test.cfg)); got != test.want {
			t.Errorf("%s, want %s", got, test.want)
		}
	}
	got := spellFlowtable(nft.flowtable(cfg))
	t.Run("as nft says", func(t *testing.T) {
		if got != "on" && !strings.HasPrefix(got, "off: this kernel has no flowtables (nf_flow_table_inet, ") {
			t.Error(got)
		}
		testenv.RequireFlowtable(t)
		if got != "on" {
			t.Error(got)
		}
	})
}
