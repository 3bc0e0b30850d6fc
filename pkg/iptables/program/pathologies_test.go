// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package program

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/iptables/ruleset"
	"github.com/smartnat/smartnat/pkg/testenv"
)

// TestATableThatIsRefused: a refused table does not block the others, except that nat needs filter.
func TestATableThatIsRefused(t *testing.T) {
	for _, tc := range []struct {
		refused string
		written []string
	}{
		{"", []string{"mangle", "filter", "nat"}},
		{"mangle", []string{"filter", "nat"}},
		{"filter", []string{"mangle"}},
		{"nat", []string{"mangle", "filter"}},
	} {
		t.Run("refused: "+tc.refused, func(t *testing.T) {
			inKernel(t, func(t *testing.T, k kernel) {
				batch := ruleset.Batch{Family: k.family}
				for _, name := range []string{"mangle", "filter", "nat"} {
					rule := ruleset.Rule{Foreign: "-j ACCEPT"}
					if name == tc.refused {
						rule = ruleset.Rule{Foreign: "-m no-such-match -j ACCEPT"}
					}
					batch.Tables = append(batch.Tables, ruleset.TableBatch{Name: name, Write: []ruleset.Chain{{Name: "SMARTNAT-X", Rules: []ruleset.Rule{rule}}}})
				}
				err := k.Restore(t.Context(), batch)
				line, isLine := errors.AsType[*LineError](err)
				if errors.Is(err, gateway.ErrRefused) != (tc.refused != "") {
					t.Errorf("error %v, want ErrRefused: %t", err, tc.refused != "")
				}
				if isLine != (tc.refused != "") || isLine && !strings.Contains(line.Text, "no-such-match") || !isLine && err != nil {
					t.Errorf("error %v", err)
				}
				var written []string
				for _, table := range k.read(t).Tables {
					if slices.ContainsFunc(table.Chains, func(c *ruleset.Chain) bool { return c.Name == "SMARTNAT-X" && len(c.Rules) == 1 }) {
						written = append(written, table.Name)
					}
				}
				slices.Sort(written)
				slices.Sort(tc.written)
				if diff := cmp.Diff(tc.written, written); diff != "" {
					t.Errorf("tables written (-want +got):\n%s", diff)
				}
			})
		})
	}
}

// TestWhatIsRefused covers content that the program or the kernel refuses.
func TestWhatIsRefused(t *testing.T) {
	for _, tc := range []struct {
		name, rule string
		refused    bool
	}{
		{"nothing", "-j ACCEPT", false},
		{"a match that the program does not know", "-m no-such-match -j ACCEPT", true},
		{"an option that the program does not know", "--no-such-option -j ACCEPT", true},
		{"a chain that does not exist", "-j SMARTNAT-NO", true},
		{"a value that the kernel does not accept", "-m recent --rcheck --hitcount 70000 --name too-many -j ACCEPT", true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			inKernel(t, func(t *testing.T, k kernel) {
				rules := []ruleset.Rule{{Foreign: "-j RETURN"}, {Foreign: tc.rule}}
				batch := ruleset.Batch{Family: k.family, Tables: []ruleset.TableBatch{{Name: "nat", Write: []ruleset.Chain{{Name: "SMARTNAT-X", Rules: rules}}}}}
				err := k.Restore(t.Context(), batch)
				if errors.Is(err, gateway.ErrRefused) != tc.refused || (err != nil) != tc.refused {
					t.Errorf("error %v, want ErrRefused: %t", err, tc.refused)
				}
			})
		})
	}
}

// TestWhatIsNotRefused covers temporary failures, even if the output names a line.
func TestWhatIsNotRefused(t *testing.T) {
	for _, tc := range []struct {
		name, script string
		refused      bool
	}{
		{"nf_tables refuses", `echo "line 4: RULE_APPEND failed (Invalid argument): rule in chain X" >&2; exit 4`, true},
		{"nf_tables lacks a module", `echo "line 4: RULE_APPEND failed (No such file or directory): rule in chain X" >&2; exit 4`, true},
		{"legacy refuses", `echo "iptables-restore: line 5 failed" >&2; exit 1`, true},
		{"another process wrote at the same time", `echo "iptables-restore: line 5 failed: Resource temporarily unavailable." >&2; exit 4`, false},
		{"no memory", `echo "line 4: RULE_APPEND failed (Cannot allocate memory): rule in chain X" >&2; exit 4`, false},
		{"not root", `echo "line 4: CHAIN_ADD failed (Operation not permitted): chain X" >&2; exit 4`, false},
		{"killed", `echo "line 4: RULE_APPEND failed (Invalid argument)" >&2; kill -9 $$`, false},
		{"the lock is held", `echo "Another app is currently holding the xtables lock; line 1" >&2; exit 4`, false},
		{"no line is named", `echo "out of luck" >&2; exit 1`, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), "sh", "-c", tc.script)
			var stderr strings.Builder
			cmd.Stderr = &stderr
			err := cmd.Run()
			if err == nil {
				t.Fatal("the script succeeded")
			}
			err = describe(&runError{command: "iptables-restore", err: err, stderr: stderr.String()}, []byte("*nat\n:X\n\n-A X\nCOMMIT\n"))
			if errors.Is(err, gateway.ErrRefused) != tc.refused {
				t.Errorf("error %v, want ErrRefused: %t", err, tc.refused)
			}
		})
	}
}

// TestAProgramThatIsMissing: a program that is missing, for example during an upgrade, is used again once it is back.
func TestAProgramThatIsMissing(t *testing.T) {
	for _, backend := range []string{"legacy", "nft"} {
		t.Run(backend, func(t *testing.T) {
			testenv.RequireTool(t, "iptables-"+backend)
			testenv.NewNetNS(t)
			programs(t, map[string]string{"iptables": backend})
			runner, err := New(Options{})
			if err != nil {
				t.Fatal(err)
			}
			path, err := exec.LookPath("iptables-restore")
			if err != nil {
				t.Fatal(err)
			}
			away := filepath.Join(t.TempDir(), "away")
			if err := os.Rename(path, away); err != nil {
				t.Fatal(err)
			}
			batch := ruleset.Batch{Family: gateway.IPv4, Tables: []ruleset.TableBatch{{Name: "nat", Write: []ruleset.Chain{{Name: "SMARTNAT-X"}}}}}
			if err := runner.Restore(t.Context(), batch); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), path) {
				t.Errorf("error %v, want ErrNotExist naming %s", err, path)
			}
			if err := os.Rename(away, path); err != nil {
				t.Fatal(err)
			}
			if err := runner.Restore(t.Context(), batch); err != nil {
				t.Errorf("with the program back: %v", err)
			}
		})
	}
}
