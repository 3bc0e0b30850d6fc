// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package ruleset

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/smartnat/smartnat/pkg/gateway"
)

// parse parses tables in the short form of these tests.
func parse(t *testing.T, save string) Ruleset {
	t.Helper()
	rs, err := Parse(gateway.IPv4, []byte(strings.TrimSpace(save)+"\n"))
	if err != nil {
		t.Fatal(err)
	}
	return rs
}

const wanted = `
*mangle
:PREROUTING - [0:0]
:S-M - [0:0]
-A PREROUTING -j S-M
COMMIT
*nat
:PREROUTING - [0:0]
:S-A - [0:0]
:S-B - [0:0]
-A PREROUTING -j S-A
-A S-A -p tcp -g S-B
-A S-B -j ACCEPT
COMMIT
`

func TestDiff(t *testing.T) {
	for _, tc := range []struct {
		name, have, want string
		// text is the expected batch; chains and rules are its counts.
		text          string
		chains, rules int
	}{
		{name: "empty tables", want: wanted, chains: 3, rules: 4, text: `
*mangle
:S-M - [0:0]
-I PREROUTING 1 -j S-M
COMMIT
*nat
:S-A - [0:0]
:S-B - [0:0]
-I PREROUTING 1 -j S-A
-A S-A -p tcp -g S-B
-A S-B -j ACCEPT
COMMIT
`},
		{name: "everything in place", have: wanted, want: wanted},
		{name: "one chain differs", have: strings.Replace(wanted, "ACCEPT", "DROP", 1), want: wanted, chains: 1, rules: 1, text: `
*nat
:S-B - [0:0]
-A S-B -j ACCEPT
COMMIT
`},
		{name: "a foreign rule in our chain", have: strings.Replace(wanted, "-A S-B -j ACCEPT", "-A S-B -j ACCEPT\n-A S-B -f -j DROP", 1), want: wanted, chains: 1, rules: 1, text: `
*nat
:S-B - [0:0]
-A S-B -j ACCEPT
COMMIT
`},
		{name: "an extra chain", have: strings.Replace(wanted, ":S-B - [0:0]", ":S-B - [0:0]\n:S-C - [0:0]\n:OTHER - [0:0]", 1), want: wanted, chains: 1, text: `
*nat
:S-C - [0:0]
-X S-C
COMMIT
`},
		{name: "a foreign rule before ours", have: strings.Replace(wanted, "-A PREROUTING -j S-A", "-A PREROUTING -f -j ACCEPT\n-A PREROUTING -j S-A", 1), want: wanted, rules: 2, text: `
*nat
-D PREROUTING -j S-A
-I PREROUTING 1 -j S-A
COMMIT
`},
		{name: "a duplicate and an obsolete rule", have: strings.Replace(wanted, "-A PREROUTING -j S-A", "-A PREROUTING -j S-A\n-A PREROUTING -j ACCEPT\n-A PREROUTING ! -i lo -g S-B\n-A PREROUTING -j S-A", 1), want: wanted, rules: 4, text: `
*nat
-D PREROUTING -j S-A
-D PREROUTING ! -i lo -g S-B
-D PREROUTING -j S-A
-I PREROUTING 1 -j S-A
COMMIT
`},
		{name: "two jumps to our chain", have: "*nat\n:PREROUTING - [0:0]\n-A PREROUTING -j ACCEPT\nCOMMIT", want: `
*nat
:OUTPUT - [0:0]
:PREROUTING - [0:0]
:S-A - [0:0]
-A OUTPUT -j S-A
-A PREROUTING -p tcp -j S-A
-A PREROUTING -p udp -j S-A
COMMIT`, chains: 1, rules: 3, text: `
*nat
:S-A - [0:0]
-I OUTPUT 1 -j S-A
-I PREROUTING 1 -p tcp -j S-A
-I PREROUTING 2 -p udp -j S-A
COMMIT
`},
		{name: "everything of ours is removed, nat first", have: wanted, chains: 3, rules: 2, text: `
*nat
:S-A - [0:0]
:S-B - [0:0]
-D PREROUTING -j S-A
-X S-A
-X S-B
COMMIT
*mangle
:S-M - [0:0]
-D PREROUTING -j S-M
-X S-M
COMMIT
`},
		{name: "nothing of ours to remove", have: "*nat\n:OTHER - [0:0]\nCOMMIT\n"},
		{name: "a chain with a foreign reference is emptied", have: `
*nat
:OTHER - [0:0]
:S-A - [0:0]
:S-B - [0:0]
-A OTHER ! -i lo -j S-A
-A S-A -j S-B
COMMIT`, chains: 2, text: `
*nat
:S-A - [0:0]
:S-B - [0:0]
-X S-B
COMMIT
`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			have, want := parse(t, tc.have), parse(t, tc.want)
			batch := Diff(have, want, "S-")
			if diff := cmp.Diff(strings.TrimPrefix(tc.text, "\n"), string(batch.Text())); diff != "" {
				t.Error(diff)
			}
			if batch.Chains() != tc.chains || batch.Rules() != tc.rules || batch.Empty() != (tc.text == "") {
				t.Errorf("%d chains, %d rules, empty %t; want %d, %d", batch.Chains(), batch.Rules(), batch.Empty(), tc.chains, tc.rules)
			}
			before := string(Render(have))
			after := Apply(have, batch)
			if again := Diff(after, want, "S-"); !again.Empty() {
				t.Errorf("the batch is incomplete, remaining changes:\n%s", again.Text())
			}
			if string(Render(have)) != before {
				t.Error("Apply changed its argument")
			}
		})
	}
}

func TestRender(t *testing.T) {
	want := parse(t, wanted)
	if diff := cmp.Diff(string(Diff(Ruleset{}, want, "S-").Text()), string(Render(want))); diff != "" {
		t.Error(diff)
	}
}
