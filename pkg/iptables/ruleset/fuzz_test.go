// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package ruleset

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/smartnat/smartnat/pkg/gateway"
)

// FuzzSave adds our rules to arbitrary iptables-save output and removes them again. Foreign chains and rules must stay
// unchanged, and a second diff must be empty.
func FuzzSave(f *testing.F) {
	const ours = "*nat\n:PREROUTING ACCEPT [0:0]\n:S-A - [0:0]\n:S-B - [0:0]\n-A PREROUTING -j S-A\n-A S-A -g S-B\n-A S-B -j DROP\nCOMMIT\n"
	for _, save := range []string{
		"", "*nat", "COMMIT", "*\nCOMMIT\n", ours, traced, treated,
		"*nat\n:PREROUTING ACCEPT [1:60]\n:S-B - [0:0]\n:OTHER - [0:0]\n[12:720] -A PREROUTING -j S-B\n-A PREROUTING -j OTHER\n-A OTHER -j S-B\nCOMMIT\n",
		"*filter\n:S-A - [0:0]\n:FORWARD DROP [0:0]\n-A FORWARD -m comment --comment \"a \\\" -j\" -j S-A\n-A FORWARD -j S-A\n-A FORWARD -j S-A\nCOMMIT\n",
		"*filter\n:FORWARD DROP [0:0]\n:S-A - [0:0]\n-A FORWARD -m comment --comment \"a\nCOMMIT\n*nat\n-A S-A -j DROP\n\" -j S-A\nCOMMIT\n",
		"*nat\n:PREROUTING ACCEPT\n:PREROUTING ACCEPT [0:0]\nCOMMIT\n*nat\n:S-C - [0:0]\nCOMMIT\n",
	} {
		f.Add(save, false)
		f.Add(save, true)
	}
	f.Fuzz(func(t *testing.T, save string, v6 bool) {
		const prefix = "S-"
		family := gateway.IPv4
		if v6 {
			family = gateway.IPv6
		}
		have, err := Parse(family, []byte(save))
		if err != nil {
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("more than one line: %v", err)
			}
			return
		}
		others := foreign(have, prefix)
		want := parse(t, ours)
		want.Family = family
		for _, want := range []Ruleset{want, {Family: family}} {
			batch := Diff(have, want, prefix)
			if _, err := batch.AppendText(nil); err != nil {
				t.Fatalf("AppendText: %v", err)
			}
			after := Apply(have, batch)
			if diff := cmp.Diff(others, foreign(after, prefix), equateRules); diff != "" {
				t.Fatalf("foreign rules (-before +after):\n%s", diff)
			}
			if again := Diff(after, want, prefix); !again.Empty() {
				t.Fatalf("the second diff is not empty:\n%s", again.Text())
			}
			have = after
		}
	})
}

// foreign returns the rules of foreign chains except jumps from built-in chains to ours.
func foreign(rs Ruleset, prefix string) map[string][]Rule {
	rules := map[string][]Rule{}
	for _, table := range rs.Tables {
		for _, c := range table.Chains {
			if strings.HasPrefix(c.Name, prefix) {
				continue
			}
			for _, r := range c.Rules {
				if !builtIn(c.Name) || !strings.HasPrefix(r.Target.Chain, prefix) {
					rules[table.Name+" "+c.Name] = append(rules[table.Name+" "+c.Name], r)
				}
			}
		}
	}
	return rules
}
