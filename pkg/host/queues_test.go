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
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/testenv"
)

// TestQueuingChains loads rules of programs that inspect packets into the real kernel.
func TestQueuingChains(t *testing.T) {
	testenv.NewNetNS(t)
	try := exec.Command("nft", "-f", "-")
	try.Stdin = strings.NewReader("table ip try { chain c { queue; }; }")
	if out, err := try.CombinedOutput(); err != nil {
		testenv.Lacks(t, fmt.Sprintf("the statement queue (nft_queue): %s", strings.Join(strings.Fields(string(out)), " ")))
	}
	hooked := func(kind, hook, rules string) string {
		return "table inet ips { chain end { queue num 1; }\n chain c { type " + kind + " hook " + hook + " priority 5; policy accept; " + rules + "; }; }"
	}
	found := []gateway.BaseChain{{Family: "inet", Table: "ips", Name: "c"}}
	for _, tc := range []struct {
		name, ruleset string
		want          []gateway.BaseChain
	}{
		{"none", hooked("filter", "forward", "counter"), nil},
		{"all packets", hooked("filter", "forward", "queue num 0-3 fanout, bypass"), found},
		{"some packets", hooked("filter", "forward", "tcp dport 443 counter queue num 2"), found},
		{"after an accept", hooked("filter", "forward", "ct state established accept; queue"), found},
		{"in a chain that some packets reach", hooked("filter", "forward", "tcp dport 443 jump end"), found},
		{"before routing", hooked("filter", "prerouting", "queue"), found},
		{"after routing", hooked("filter", "postrouting", "queue"), found},
		{"first packets only", hooked("nat", "postrouting", "queue"), nil},
		{"packets to the host", hooked("filter", "input", "queue"), nil},
		{"ours", "table ip smartnat { chain c { type filter hook forward priority 5; queue; }; }", nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			testenv.NewNetNS(t)
			nft := exec.Command("nft", "-f", "-")
			nft.Stdin = strings.NewReader(tc.ruleset)
			if output, err := nft.CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, output)
			}
			got, err := ReadChains(gateway.DefaultOwnership())
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(gateway.OtherChains{Queuing: tc.want}, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestQueueStatement reads a rule as the kernel sends it, which not every kernel can hold.
func TestQueueStatement(t *testing.T) {
	for name, want := range map[string]bool{"queue": true, "counter": false} {
		encoder := netlink.NewAttributeEncoder()
		encoder.Nested(unix.NFTA_RULE_EXPRESSIONS, func(e *netlink.AttributeEncoder) error {
			e.Nested(unix.NFTA_LIST_ELEM, func(e *netlink.AttributeEncoder) error {
				e.String(unix.NFTA_EXPR_NAME, name)
				return nil
			})
			return nil
		})
		attributes, err := encoder.Encode()
		if err != nil {
			t.Fatal(err)
		}
		rule, err := readRule(attributes, 0)
		if err != nil || rule.queues != want {
			t.Errorf("%s: %+v, %v; want queues %t", name, rule, err, want)
		}
	}
}

// TestChainsOfIPTables loads the same rules by both variants of iptables, which put them into different parts of the kernel.
func TestChainsOfIPTables(t *testing.T) {
	const drop, mark = "-P FORWARD DROP", "-I FORWARD -m connmark --mark 0x10/0x10 -j ACCEPT"
	for _, tc := range []struct {
		name       string
		rules      []string
		dropping   bool
		egressOnly bool
		queuing    string // the table and the chain
		legacyOnly bool
	}{
		{name: "no rules", rules: []string{"-P FORWARD ACCEPT"}},
		{name: "policy drop", rules: []string{drop}, dropping: true},
		{name: "Docker", rules: []string{
			drop, "-N DOCKER-USER", "-N DOCKER-FORWARD", "-A FORWARD -j DOCKER-USER", "-A DOCKER-USER -j RETURN", "-A FORWARD -j DOCKER-FORWARD",
			"-A DOCKER-FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT", "-A DOCKER-FORWARD -i docker0 -j ACCEPT",
		}, dropping: true},
		{name: "a rule for our mark", rules: []string{drop, mark}},
		{name: "our mark in another chain", rules: []string{drop, "-N MINE", "-A MINE -m connmark --mark 0x10/0x10 -j ACCEPT", "-A FORWARD -g MINE"}},
		{name: "a rule for translated connections", rules: []string{"-A FORWARD -m conntrack --ctstate DNAT -j ACCEPT", "-A FORWARD -j REJECT"}, dropping: true, egressOnly: true},
		{name: "a rule without a target", rules: []string{"-A FORWARD", "-A FORWARD -j DROP"}, dropping: true},
		{name: "a drop for a link, a network, a protocol", rules: []string{"-A FORWARD -i eth9 -j DROP", "-A FORWARD -s 192.0.2.0/24 -j DROP", "-A FORWARD -p udp -j DROP"}},
		{name: "a queue", rules: []string{"-I FORWARD -j NFQUEUE --queue-num 1"}, queuing: "filter FORWARD"},
		{name: "a queue that some packets reach", rules: []string{"-N IPS", "-A IPS -p tcp -j NFQUEUE", "-A FORWARD -i eth9 -j IPS"}, queuing: "filter FORWARD"},
		{name: "a queue in mangle", rules: []string{"-t mangle -A PREROUTING -j NFQUEUE"}, queuing: "mangle PREROUTING"},
		{name: "a queue after routing", rules: []string{"-t mangle -A POSTROUTING -j NFQUEUE"}, queuing: "mangle POSTROUTING"},
		{name: "a queue for first packets", rules: []string{"-t nat -A POSTROUTING -j NFQUEUE"}},
		{name: "the verdict queue", rules: []string{"-A FORWARD -j QUEUE"}, queuing: "filter FORWARD", legacyOnly: true},
		{name: "a queue for the host", rules: []string{"-A INPUT -j NFQUEUE"}},
		{name: "a queue that no packet reaches", rules: []string{"-N IPS", "-A IPS -j NFQUEUE"}},
	} {
		for program, family := range map[string]string{"iptables": "ip", "ip6tables": "ip6"} {
			for _, variant := range []string{"-legacy", "-nft"} {
				if tc.legacyOnly && variant != "-legacy" {
					continue
				}
				t.Run(tc.name+"/"+program+variant, func(t *testing.T) {
					testenv.RequireTool(t, program+variant)
					testenv.NewNetNS(t)
					for _, rule := range tc.rules {
						if family == "ip6" {
							rule = strings.ReplaceAll(rule, "192.0.2.0/24", "2001:db8::/32")
						}
						if output, err := exec.Command(program+variant, strings.Fields(rule)...).CombinedOutput(); err != nil {
							t.Fatalf("%s %s: %v: %s", program+variant, rule, err, output)
						}
					}
					var want gateway.OtherChains
					chain := gateway.BaseChain{Family: family, Table: "filter", Name: "FORWARD", Legacy: variant == "-legacy"}
					if tc.dropping {
						chain.EgressOnly = tc.egressOnly
						want.Dropping = []gateway.BaseChain{chain}
					}
					if table, name, found := strings.Cut(tc.queuing, " "); found {
						chain.Table, chain.Name = table, name
						want.Queuing = []gateway.BaseChain{chain}
					}
					read, other := ReadLegacyChains, ReadChains
					if variant == "-nft" {
						read, other = other, read
					}
					for i, read := range []func(gateway.Ownership) (gateway.OtherChains, error){read, other} {
						got, err := read(gateway.DefaultOwnership())
						if err != nil {
							t.Fatal(err)
						}
						if i == 1 {
							want = gateway.OtherChains{}
						}
						if diff := cmp.Diff(want, got); diff != "" {
							t.Errorf("reading %d (-want +got):\n%s", i, diff)
						}
					}
				})
			}
		}
	}
}

// TestLegacyRemedy runs the command that a finding proposes.
func TestLegacyRemedy(t *testing.T) {
	testenv.RequireTool(t, "iptables-legacy")
	testenv.NewNetNS(t)
	run := func(command string) {
		t.Helper()
		words := strings.Fields(command)
		if output, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", command, err, output)
		}
	}
	run("iptables-legacy -P FORWARD DROP")
	own := gateway.DefaultOwnership()
	found, err := ReadLegacyChains(own)
	if err != nil || len(found.Dropping) != 1 {
		t.Fatalf("%v, %v; want one dropping chain", found, err)
	}
	run(found.Dropping[0].Remedy(own))
	if found, err = ReadLegacyChains(own); err != nil || len(found.Dropping) != 0 {
		t.Errorf("after the remedy: %v, %v", found, err)
	}
}
