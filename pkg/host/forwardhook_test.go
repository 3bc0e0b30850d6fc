// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package host

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/testenv"
)

// TestDroppingForwards loads typical rules of firewalls into the real kernel, with and without a rule for connections of
// Mappings.
func TestDroppingForwards(t *testing.T) {
	forward := func(policy string, rules ...string) string {
		return "table inet fw {\n chain other { counter; }\n chain forward { type filter hook forward priority 0; policy " + policy + ";\n" + strings.Join(rules, "\n") + "\n}\n}\n"
	}
	established := "ct state established,related accept"
	fw := []BaseChain{{"inet", "fw", "forward"}}
	for _, tc := range []struct {
		name, ruleset string
		want          []BaseChain
	}{
		{"nothing", "", nil},
		{"policy accept", forward("accept", established), nil},
		{"policy drop", forward("drop", established, `iifname "eth0" accept`), fw},
		{"an empty chain with policy drop", forward("drop"), fw},
		{"drop at the end", forward("accept", established, "counter drop"), fw},
		{"reject at the end, logged", forward("accept", established, `log prefix "no " reject with icmpx admin-prohibited`), fw},
		{"drop with a condition", forward("accept", "ip daddr 192.0.2.1 drop", "ct state invalid drop"), nil},
		{"accept at the end", forward("drop", "ct state invalid drop", "counter accept"), nil},
		{"a rule for our mark", forward("drop", established, "ct mark and 0x10 == 0x10 accept"), nil},
		{"a rule for another mark", forward("drop", "ct mark and 0x20 == 0x20 accept"), fw},
		{"a rule for translated connections, as in firewalld", forward("accept", established, "ct status dnat accept", "reject"), nil},
		{"a rule for another status", forward("drop", "ct status snat accept"), fw},
		{"that rule after a drop", forward("accept", "drop", "ct status dnat accept"), fw},
		{"that rule in another chain", forward("drop", "jump ours") + "table inet fw { chain ours { ct status dnat accept; }; }", nil},
		{"drop in a chain that all packets reach", forward("accept", "goto end") + "table inet fw { chain end { drop; }; }", fw},
		{"drop in a chain that some packets reach", forward("accept", `iifname "eth9" goto end`) + "table inet fw { chain end { drop; }; }", nil},
		{"other hooks and families", `table ip in { chain input { type filter hook input priority 0; policy drop; }; }
			table bridge b { chain forward { type filter hook forward priority 0; policy drop; }; }`, nil},
		{"each family", `table ip a { chain f { type filter hook forward priority -5; policy drop; }; }
			table ip6 b { chain g { type filter hook forward priority 5; policy drop; }; }`, []BaseChain{{"ip", "a", "f"}, {"ip6", "b", "g"}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			testenv.NewNetNS(t)
			nft := exec.Command("nft", "-f", "-")
			// Create the targets of jumps first.
			nft.Stdin = strings.NewReader("table inet fw { chain ours {}; chain end {}; }\n" + tc.ruleset)
			if output, err := nft.CombinedOutput(); err != nil {
				t.Fatal(fmt.Errorf("%w: %s", err, output))
			}
			got, err := DroppingForwards(gateway.DefaultOwnership())
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
