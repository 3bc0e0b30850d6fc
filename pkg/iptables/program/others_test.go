// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package program

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/smartnat/smartnat/pkg/iptables/ruleset"
)

// command runs the program with arguments that iptables-restore could not express on one line.
func (k kernel) command(t *testing.T, words ...string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), string(k.programs[k.family]), words...).CombinedOutput(); err != nil {
		t.Fatalf("%q: %v: %s", words, err, out)
	}
}

// injection is a name that would end the line and the table and then insert a rule into another table.
const injection = "default/x\nCOMMIT\n*filter\n-I FORWARD 1 -j ACCEPT\nCOMMIT\n*nat\n#"

// TestLinesOfOthersAreNoneOfOurs: comments of other programs, whatever they contain, do not prevent us from reading the
// tables, are not read as ours, and stay unchanged.
func TestLinesOfOthersAreNoneOfOurs(t *testing.T) {
	comments := []string{
		"a\nb", "\n", "\"\n\\", `\\\"`, "it's\n'quoted'", "\t\x1b[2J\x7f\xff", injection,
		"a\nCOMMIT", "a\n*nat\nb", "a\n:SMARTNAT-FORWARD - [0:0]", "a\n:SMARTNAT-NEW - [0:0]\n", "a\n-A SMARTNAT-FORWARD -j ACCEPT",
		"a\n-A FORWARD -j SMARTNAT-FORWARD\n-A FORWARD -m comment --comment \"", "a\" -j ACCEPT\n-A FORWARD -j SMARTNAT-FORWARD", "# a\n#\n\n[",
	}
	inKernel(t, func(t *testing.T, k kernel) {
		k.load(t, foreign)
		for _, chain := range []string{"INPUT", "FORWARD"} {
			for _, comment := range comments {
				k.command(t, "-A", chain, "-p", "tcp", "--dport", "7", "-m", "comment", "--comment", comment, "-j", "ACCEPT")
			}
		}
		k.command(t, "-A", "FORWARD", "-i", `"a`, "-j", "ACCEPT")
		k.command(t, "-A", "FORWARD", "-i", `a"b\`, "-j", "ACCEPT")
		k.command(t, "-A", "FORWARD", "-m", "recent", "--name", "a\n*nat", "--set", "-j", "RETURN")
		before := k.dump(t)
		want := k.build(k.state())
		k.apply(t, want)
		for _, table := range k.read(t).Tables {
			if table.Name != "filter" {
				continue
			}
			for _, chain := range table.Chains {
				if n := len(chain.Rules); chain.Name == "INPUT" && n != 3+len(comments) || chain.Name == "FORWARD" && n != 2+len(comments)+4 {
					t.Errorf("read %d rules of chain %s", n, chain.Name)
				}
			}
		}
		if batch := k.apply(t, want); !batch.Empty() {
			t.Errorf("a second apply writes again:\n%s", batch.Text())
		}
		k.apply(t, ruleset.Ruleset{Family: k.family})
		if diff := cmp.Diff(before, k.dump(t)); diff != "" {
			t.Errorf("not restored after the removal (-before +after):\n%s", diff)
		}
	})
}

// TestStrangeRuleThatLeadsToUs: a foreign rule that no restore line can express stays, and so does, emptied, the chain that
// it jumps to.
func TestStrangeRuleThatLeadsToUs(t *testing.T) {
	inKernel(t, func(t *testing.T, k kernel) {
		k.apply(t, k.build(k.state()))
		k.command(t, "-A", "INPUT", "-m", "comment", "--comment", "a\nb", "-j", "SMARTNAT-REFUSE")
		k.command(t, "-A", "SMARTNAT-FORWARD", "-m", "comment", "--comment", injection, "-j", "ACCEPT")
		k.apply(t, k.build(k.state()))
		if strings.Contains(k.dump(t), "-I FORWARD") {
			t.Errorf("a foreign rule stays in our chain:\n%s", k.dump(t))
		}
		k.apply(t, ruleset.Ruleset{Family: k.family})
		if got := k.dump(t); strings.Count(got, "SMARTNAT") != 2 {
			t.Errorf("want only the empty chain and the rule that jumps to it:\n%s", got)
		}
	})
}

// TestOwnersAreComments: an owner with any name becomes a comment on one line that reads back unchanged.
func TestOwnersAreComments(t *testing.T) {
	owners := []string{injection, "", " ", "!", "-j", "--", "it's", `"\"`, "#", strings.Repeat("n", 63) + "/" + strings.Repeat("x", 253), "\x00\x7f\xff\u202e"}
	for c := byte(' '); c < 0x7f; c++ {
		owners = append(owners, "a"+string(c)+"b", string(c))
	}
	inKernel(t, func(t *testing.T, k kernel) {
		state := k.state()
		for first := 0; first < len(owners); first += len(state.Forwards) {
			for i, forward := range state.Forwards {
				other := *forward
				other.Owner = owners[(first+i)%len(owners)]
				state.Forwards[i] = &other
			}
			k.apply(t, k.build(state))
			if batch := k.apply(t, k.build(state)); !batch.Empty() {
				t.Errorf("a second apply writes again:\n%s", batch.Text())
			}
		}
		if strings.Contains(k.dump(t), "\n-I FORWARD") || strings.Contains(k.dump(t), "-A FORWARD -j ACCEPT") {
			t.Errorf("a name became a rule:\n%s", k.dump(t))
		}
	})
}
