// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package check

import (
	"os"
	"strings"
	"testing"

	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/iptables/ruleset"
)

// layout returns the tables that another program writes.
func layout(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile("../../scripts/lab/e2e/testdata/" + name + ".txt")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestForwardTables checks the rules of other programs on a host whose rules are in nftables, and that the command that a finding
// names mends it.
func TestForwardTables(t *testing.T) {
	docker, ufw, firewalld := layout(t, "docker"), layout(t, "ufw"), layout(t, "firewalld")
	onlyUFW := strings.NewReplacer(":DOCKER-USER - [0:0]\n", "", "-A FORWARD -j DOCKER-USER\n", "", "-A DOCKER-USER -j RETURN\n", "").Replace(ufw)
	insert := func(text, before, rule string) string {
		if !strings.Contains(text, before) {
			t.Fatalf("%q is not in the layout", before)
		}
		return strings.Replace(text, before, rule+before, 1)
	}
	forward := func(rules string) string { return "*filter\n:FORWARD ACCEPT [0:0]\n:X - [0:0]\n" + rules + "COMMIT\n" }
	const mend = " -m connmark --mark 0x10/0x10 -j ACCEPT\n"
	for _, test := range []struct {
		name, text string
		// want is nothing, or a part of the line.
		want string
	}{
		{"Docker", docker, "WARN    FORWARD|IPv4|iptables-nft -I DOCKER-USER -m connmark --mark 0x10/0x10 -j ACCEPT"},
		{"Docker, mended", insert(docker, "-A DOCKER-USER -j RETURN", "-A DOCKER-USER"+mend), ""},
		{"ufw with Docker", ufw, "WARN    FORWARD|iptables-nft -I DOCKER-USER -m"},
		{"ufw", onlyUFW, "WARN    FORWARD|iptables-nft -I ufw-before-forward -m connmark --mark 0x10/0x10 -j ACCEPT|/etc/ufw/before.rules"},
		{"ufw, mended", insert(onlyUFW, "-A ufw-before-forward", "-A ufw-before-forward"+mend), ""},
		{"firewalld", firewalld, ""},
		{"firewalld without its rule for DNAT", strings.ReplaceAll(firewalld, "ESTABLISHED,DNAT", "ESTABLISHED"), "WARN    FORWARD|iptables-nft -I FORWARD -m"},
		{"no rules", forward(""), ""},
		{"a last drop", forward("-A FORWARD -i eth1 -j ACCEPT\n-A FORWARD -j DROP\n"), "WARN    FORWARD|-I FORWARD"},
		{"a drop with a condition", forward("-A FORWARD -m conntrack --ctstate INVALID -j DROP\n"), ""},
		{"a drop in another chain", forward("-A FORWARD -j X\n-A X -m comment --comment \"to the end -j ACCEPT\" -j REJECT --reject-with icmp-port-unreachable\n"), "WARN    FORWARD|-I FORWARD"},
		{"a return before it", forward("-A FORWARD -j X\n-A X -j RETURN\n-A X -j DROP\n"), ""},
		{"an accept of everything", forward("-A FORWARD -m comment --comment all -j ACCEPT\n-A FORWARD -j DROP\n"), ""},
		{"another mark", forward("-A FORWARD -m connmark --mark 0x20/0x20 -j ACCEPT\n-A FORWARD -j DROP\n"), "WARN    FORWARD|-I FORWARD"},
		{"the mark of the packet", forward("-A FORWARD -m mark --mark 0x10/0x10 -j ACCEPT\n-A FORWARD -j DROP\n"), "WARN    FORWARD|-I FORWARD"},
		{"not what is translated", forward("-A FORWARD -m conntrack ! --ctstate DNAT -j ACCEPT\n-A FORWARD -j DROP\n"), "WARN    FORWARD|-I FORWARD"},
		{"a loop", forward("-A FORWARD -j X\n-A X -j X\n"), ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			tables, err := ruleset.Parse(gateway.IPv4, []byte(test.text))
			if err != nil {
				t.Fatal(err)
			}
			if test.want == "" {
				expect(t, ForwardTables(tables, "iptables-nft", gateway.DefaultOwnership(), true))
				return
			}
			expect(t, ForwardTables(tables, "iptables-nft", gateway.DefaultOwnership(), true), test.want+"|or set dataplane: iptables")
			lines := ForwardTables(tables, "iptables-nft", gateway.DefaultOwnership(), false)
			if len(lines) != 1 || strings.Contains(lines[0].Text, "dataplane") {
				t.Errorf("where iptables does not work: %v", lines)
			}
		})
	}
}

func TestScale(t *testing.T) {
	for _, test := range []struct {
		ports     int
		dataplane string
		want      []string
	}{
		{2000, config.DataplaneIPTables, nil},
		{2001, config.DataplaneIPTables, []string{"ok      dataplane|with 2001 ports|dataplane: nftables"}},
		{2001, config.DataplaneNFTables, nil},
	} {
		expect(t, scale(test.ports, test.dataplane), test.want...)
	}
}
