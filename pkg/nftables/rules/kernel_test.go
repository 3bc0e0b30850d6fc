// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package rules

import (
	"fmt"
	"math/rand/v2"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/nftables/ruleset"
	"github.com/smartnat/smartnat/pkg/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// TestKernelLoadsText expects that nft(8) and the kernel accept the text of every table. The kernel also checks that chains may
// be reached from their hooks, and that no jumps form a loop.
func TestKernelLoadsText(t *testing.T) {
	testenv.RequireTool(t, "nft")
	load := func(name string, tables ...ruleset.Table) {
		t.Run(name, func(t *testing.T) {
			testenv.NewNetNS(t)
			if len(tables[0].Flowtables) > 0 {
				testenv.RequireFlowtable(t)
			}
			if slices.ContainsFunc(tables, hasRanges) {
				testenv.RequireRangesByText(t)
			}
			input := ""
			for _, table := range tables {
				input += text(t, table)
			}
			nft(t, input, "-f", "-")
			for _, table := range tables {
				complete(t, table)
			}
		})
	}
	for _, tc := range scenarios {
		load(tc.name, Build(tc.state(gateway.IPv4), gateway.IPv4, ownership), Build(tc.state(gateway.IPv6), gateway.IPv6, ownership))
		load("guard of "+tc.name, Guard(tc.state(gateway.IPv4), gateway.IPv4, ownership), Guard(tc.state(gateway.IPv6), gateway.IPv6, ownership))
	}
	random := rand.New(rand.NewPCG(1, 1))
	for i := range 16 {
		var tables []ruleset.Table
		for _, family := range families {
			tables = append(tables, Build(randomState(random, family), family, ownership))
		}
		load(fmt.Sprintf("random %d", i), tables...)
	}
}

// hasRanges reports whether a table looks up ranges of ports.
func hasRanges(table ruleset.Table) bool {
	return slices.ContainsFunc(table.Sets, func(s ruleset.Set) bool { return s.Name == rangesMap })
}

// complete expects that the kernel has as many chains, rules and sets as the table, except for rules that nft(8) cannot spell.
func complete(t *testing.T, table ruleset.Table) {
	t.Helper()
	family := map[gateway.Family]string{gateway.IPv4: "ip", gateway.IPv6: "ip6"}[table.Family]
	listing := nft(t, "", "-a", "list", "table", family, "smartnat")
	rules, sets := 0, len(table.Sets)
	if slices.ContainsFunc(table.Sets, func(s ruleset.Set) bool { return s.Name == chainsMap }) {
		sets-- // The text joins it with the maps that lead to it.
	}
	for _, chain := range table.Chains {
		rules += len(chain.Rules)
		for _, rule := range chain.Rules {
			for _, e := range rule.Exprs {
				if nat, ok := e.(ruleset.NAT); ok && nat.Flags&ruleset.NATOffset != 0 {
					rules--
				}
			}
		}
	}
	handles := strings.Count(listing, " # handle ")
	if want := 1 + len(table.Helpers) + len(table.Flowtables) + sets + len(table.Chains) + rules; handles != want {
		t.Errorf("%s: the kernel has %d chains, rules and sets, want %d:\n%s", family, handles, want, listing)
	}
}

func nft(t *testing.T, input string, args ...string) string {
	t.Helper()
	cmd := exec.Command("nft", args...)
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("nft %s: %v\n%s\n%s", strings.Join(args, " "), err, out, input)
	}
	return string(out)
}
