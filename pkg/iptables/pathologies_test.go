// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package iptables

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

	"github.com/smartnat/smartnat/pkg/netfilter"
	"github.com/smartnat/smartnat/pkg/testenv"
)

// TestATableThatIsRefused does not keep back the others, but for nat, which needs what filter does.
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
				batch := netfilter.Batch{Family: k.family}
				for _, name := range []string{"mangle", "filter", "nat"} {
					rule := netfilter.Rule{Foreign: "-j ACCEPT"}
					if name == tc.refused {
						rule = netfilter.Rule{Foreign: "-m no-such-match -j ACCEPT"}
					}
					batch.Tables = append(batch.Tables, netfilter.TableBatch{Name: name, Write: []netfilter.Chain{{Name: "SMARTNAT-X", Rules: []netfilter.Rule{rule}}}})
				}
				err := k.Restore(t.Context(), batch)
				line, isLine := errors.AsType[*LineError](err)
				if isLine != (tc.refused != "") || isLine && !strings.Contains(line.Text, "no-such-match") || !isLine && err != nil {
					t.Errorf("error %v", err)
				}
				var written []string
				for _, table := range k.read(t).Tables {
					if slices.ContainsFunc(table.Chains, func(c netfilter.Chain) bool { return c.Name == "SMARTNAT-X" && len(c.Rules) == 1 }) {
						written = append(written, table.Name)
					}
				}
				slices.Sort(written)
				slices.Sort(tc.written)
				if diff := cmp.Diff(tc.written, written); diff != "" {
					t.Errorf("tables that are written (-want +got):\n%s", diff)
				}
			})
		})
	}
}

// TestAProgramThatIsMissing for a while, as in the middle of an upgrade, is used again when it is back.
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
			batch := netfilter.Batch{Family: netfilter.IPv4, Tables: []netfilter.TableBatch{{Name: "nat", Write: []netfilter.Chain{{Name: "SMARTNAT-X"}}}}}
			if err := runner.Restore(t.Context(), batch); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), path) {
				t.Errorf("error %v does not name %s", err, path)
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
