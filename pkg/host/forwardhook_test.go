// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package host

import (
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	logtest "github.com/sirupsen/logrus/hooks/test"

	"github.com/smartnat/smartnat/pkg/budget"
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
	chain := func(family, table, name string) gateway.BaseChain {
		return gateway.BaseChain{Family: family, Table: table, Name: name}
	}
	fw := []gateway.BaseChain{chain("inet", "fw", "forward")}
	egress := []gateway.BaseChain{{Family: "inet", Table: "fw", Name: "forward", EgressOnly: true}}
	for _, tc := range []struct {
		name, ruleset string
		want          []gateway.BaseChain
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
		{"a rule for translated connections, as in firewalld", forward("accept", established, "ct status dnat accept", "reject"), egress},
		{"a rule for another status", forward("drop", "ct status snat accept"), fw},
		{"that rule after a drop", forward("accept", "drop", "ct status dnat accept"), fw},
		{"that rule in another chain", forward("drop", "jump ours") + "table inet fw { chain ours { ct status dnat accept; }; }", egress},
		{"drop in a chain that all packets reach", forward("accept", "goto end") + "table inet fw { chain end { drop; }; }", fw},
		{"drop in a chain that some packets reach", forward("accept", `iifname "eth9" goto end`) + "table inet fw { chain end { drop; }; }", nil},
		{"tables of ours", `table ip smartnat { chain guard { type filter hook forward priority 5; policy drop; }; }
			table inet smartnat-other { chain f { type filter hook forward priority 5; policy drop; }; }`, nil},
		{"other hooks and families", `table ip in { chain input { type filter hook input priority 0; policy drop; }; }
			table bridge b { chain forward { type filter hook forward priority 0; policy drop; }; }`, nil},
		{"each family", `table ip a { chain f { type filter hook forward priority -5; policy drop; }; }
			table ip6 b { chain g { type filter hook forward priority 5; policy drop; }; }`, []gateway.BaseChain{chain("ip", "a", "f"), chain("ip6", "b", "g")}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			testenv.NewNetNS(t)
			nft := exec.Command("nft", "-f", "-")
			// Create the targets of jumps first.
			nft.Stdin = strings.NewReader("table inet fw { chain ours {}; chain end {}; }\n" + tc.ruleset)
			if output, err := nft.CombinedOutput(); err != nil {
				t.Fatal(fmt.Errorf("%w: %s", err, output))
			}
			got, err := ReadChains(gateway.DefaultOwnership())
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got.Dropping); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestDroppingForwardsOfIPTables loads what Docker, ufw and firewalld write by iptables-nft.
func TestDroppingForwardsOfIPTables(t *testing.T) {
	testenv.RequireTool(t, "iptables-nft")
	filter := []gateway.BaseChain{{Family: "ip", Table: "filter", Name: "FORWARD"}}
	egress := []gateway.BaseChain{{Family: "ip", Table: "filter", Name: "FORWARD", EgressOnly: true}}
	remedy := strings.Fields(filter[0].Remedy(gateway.DefaultOwnership()))[1:]
	for _, tc := range []struct {
		name  string
		rules []string
		want  []gateway.BaseChain
	}{
		{"policy drop", []string{"-P FORWARD DROP"}, filter},
		{"a rule for our mark", []string{"-P FORWARD DROP", strings.Join(remedy, " ")}, nil},
		{"a rule for all other marks", []string{"-P FORWARD DROP", "-A FORWARD -m connmark ! --mark 0x10/0x10 -j ACCEPT"}, filter},
		{"a rule for another mark", []string{"-P FORWARD DROP", "-A FORWARD -m connmark --mark 0x20/0x20 -j ACCEPT"}, filter},
		{"a rule for translated connections", []string{"-A FORWARD -m conntrack --ctstate RELATED,DNAT -j ACCEPT", "-A FORWARD -j REJECT"}, egress},
		{"a rule for all others", []string{"-A FORWARD -m conntrack ! --ctstate DNAT -j ACCEPT", "-A FORWARD -j REJECT"}, filter},
		{"a rule for established ones", []string{"-A FORWARD -m conntrack --ctstate ESTABLISHED -j ACCEPT", "-A FORWARD -j REJECT"}, filter},
	} {
		t.Run(tc.name, func(t *testing.T) {
			testenv.NewNetNS(t)
			for _, rule := range tc.rules {
				if output, err := exec.Command("iptables-nft", strings.Fields(rule)...).CombinedOutput(); err != nil {
					t.Fatalf("iptables-nft %s: %v: %s", rule, err, output)
				}
			}
			got, err := ReadChains(gateway.DefaultOwnership())
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got.Dropping); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestForwardsThroughManyJumps ends, although there are more ways through the chains than can be followed one by one.
func TestForwardsThroughManyJumps(t *testing.T) {
	const jumps = 100
	name := func(depth int) chainKey { return chainKey{table: "fw", name: strconv.Itoa(depth)} }
	hook := forwardHook{rules: map[chainKey][]nftRule{name(chainDepth): {{verdict: accepted, translated: true, conditional: true}}}, fates: map[fateKey]fate{}}
	for depth := range chainDepth {
		hook.rules[name(depth)] = slices.Repeat([]nftRule{{chain: name(depth + 1).name, conditional: true}}, jumps)
	}
	for translated, want := range map[bool]fate{false: undecided, true: accepted} {
		if got, err := hook.follow(name(0), translated, 0); err != nil || got != want {
			t.Errorf("translated %v: %v, %v, want %v", translated, got, err, want)
		}
	}
}

// TestChainsAreReadAfterAChange expects no reading of nf_tables while the rules are the same, one of legacy iptables each time, and the last
// result if one fails, because the rest of the host is known.
func TestChainsAreReadAfterAChange(t *testing.T) {
	testenv.NewNetNS(t)
	log, _ := logtest.NewNullLogger()
	of := func(table string) gateway.OtherChains {
		return gateway.OtherChains{Dropping: []gateway.BaseChain{{Family: "inet", Table: table, Name: "forward"}}}
	}
	injected, reads, legacy := errors.New("injected"), 0, 0
	var fail error
	h := New(log).OtherChains(func() (gateway.OtherChains, error) {
		reads++
		return of("fw"), fail
	}, func() (gateway.OtherChains, error) {
		legacy++
		return of("legacy"), fail
	})
	h.others.chains.readings = budget.Budget{} // without a limit
	want := slices.Concat(of("fw").Dropping, of("legacy").Dropping)
	for i, step := range []struct {
		change bool
		fail   error
		reads  int
	}{{false, nil, 1}, {false, nil, 1}, {true, injected, 2}, {false, injected, 3}, {false, nil, 4}, {false, injected, 4}} {
		if fail = step.fail; step.change {
			if output, err := exec.Command("nft", "add", "table", "inet", "other").CombinedOutput(); err != nil {
				t.Fatal(fmt.Errorf("%w: %s", err, output))
			}
		}
		observed, err := h.Observe()
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, observed.Others.Chains.Dropping); diff != "" {
			t.Errorf("step %d (-want +got):\n%s", i, diff)
		}
		if reads != step.reads || legacy != i+1 {
			t.Errorf("step %d: %d reads, and %d of legacy tables; want %d and %d", i, reads, legacy, step.reads, i+1)
		}
	}
}

// TestReadingsOfChainsAreBounded counts readings in a minute of changes, ten a second.
func TestReadingsOfChainsAreBounded(t *testing.T) {
	for _, tc := range []struct {
		name  string
		takes time.Duration
		reads int
	}{
		{"few chains", time.Millisecond, 30},
		{"thousands of chains", 50 * time.Millisecond, 6},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				reads := 0
				o := otherChains{readings: budget.New(chainShare, 0), read: func() (gateway.OtherChains, error) {
					reads++
					time.Sleep(tc.takes)
					return gateway.OtherChains{}, nil
				}}
				began := time.Now()
				for generation := uint32(0); time.Since(began) < time.Minute; generation++ {
					if err := o.update(generation, time.Now()); err != nil {
						t.Fatal(err)
					}
					time.Sleep(time.Second / 10)
				}
				if reads != tc.reads {
					t.Errorf("%d readings, want %d", reads, tc.reads)
				}
			})
		})
	}
}
