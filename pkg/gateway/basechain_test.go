// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package gateway

import "testing"

// TestBaseChain checks that no name becomes a command of its own.
func TestBaseChain(t *testing.T) {
	const rule = "ct mark and 0x10 == 0x10 accept"
	const other = "insert this rule by netlink, as nft does not permit such a name: " + rule
	for _, tc := range []struct {
		chain        BaseChain
		text, remedy string
	}{
		{BaseChain{Family: "inet", Table: "fw", Name: "forward-2"}, "chain forward-2 of table inet fw", "nft insert rule inet fw forward-2 " + rule},
		{BaseChain{Family: "ip", Table: "filter", Name: "FORWARD"}, "chain FORWARD of table ip filter", "iptables -I FORWARD -m connmark --mark 0x10/0x10 -j ACCEPT"},
		{BaseChain{Family: "ip6", Table: "filter", Name: "FORWARD"}, "chain FORWARD of table ip6 filter", "ip6tables -I FORWARD -m connmark --mark 0x10/0x10 -j ACCEPT"},
		{BaseChain{Family: "ip6", Table: "mangle", Name: "FORWARD", Legacy: true}, "legacy chain FORWARD of table ip6 mangle", "ip6tables-legacy -t mangle -I FORWARD -m connmark --mark 0x10/0x10 -j ACCEPT"},
		{BaseChain{Family: "inet", Table: "filter", Name: "FORWARD"}, "chain FORWARD of table inet filter", "nft insert rule inet filter FORWARD " + rule},
		{BaseChain{Family: "ip", Table: "fw", Name: "x;reboot"}, `chain "x;reboot" of table ip "fw"`, other},
		{BaseChain{Family: "ip", Table: "$(reboot)", Name: "f"}, `chain "f" of table ip "$(reboot)"`, other},
		{BaseChain{Family: "ip", Table: "fw", Name: "--file"}, `chain "--file" of table ip "fw"`, other},
		{BaseChain{Family: "ip", Table: "fw", Name: "\x1b[2J"}, `chain "\x1b[2J" of table ip "fw"`, other},
		{BaseChain{Family: "ip", Table: "fw"}, `chain "" of table ip "fw"`, other},
	} {
		if got := tc.chain.String(); got != tc.text {
			t.Errorf("%s, want %s", got, tc.text)
		}
		if got := tc.chain.Remedy(DefaultOwnership()); got != tc.remedy {
			t.Errorf("remedy of %s: %s, want %s", tc.chain, got, tc.remedy)
		}
	}
}
