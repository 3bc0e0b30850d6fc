// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"fmt"
	"strings"
)

// BaseChain is a chain of nf_tables that is attached to a hook, or a built-in chain of legacy iptables. Its names are those that another
// program chose.
type BaseChain struct {
	// Family is the name in nft(8): ip, ip6 or inet.
	Family, Table, Name string
	// Legacy is set for a chain of legacy iptables.
	Legacy bool
	// EgressOnly is set if it accepts translated destinations, so that it drops only connections that pods open.
	EgressOnly bool
}

// String returns "chain FORWARD of table ip filter". It quotes names that nft(8) does not permit.
func (c BaseChain) String() string {
	format := "chain %s of table %s %s"
	switch {
	case c.Legacy:
		format = "legacy " + format
	case !c.typable():
		format = "chain %q of table %s %q"
	}
	return fmt.Sprintf(format, c.Name, c.Family, c.Table)
}

// OfIPTables reports whether the chain is the built-in chain FORWARD of iptables-nft.
func (c BaseChain) OfIPTables() bool {
	return c.Table == "filter" && c.Name == "FORWARD" && c.Family != "inet" && !c.Legacy
}

// Remedy is the command that makes a BaseChain in the forward hook accept connections of Mappings. Root runs it, so a name that a
// shell or nft(8) could take for something else is no part of a command.
func (c BaseChain) Remedy(own Ownership) string {
	mark := own.Forwarded().Mask
	switch {
	case c.Legacy:
		return fmt.Sprintf("%stables-legacy -t %s -I %s -m connmark --mark %#[4]x/%#[4]x -j ACCEPT", c.Family, c.Table, c.Name, mark)
	case c.OfIPTables():
		return fmt.Sprintf("%stables -I FORWARD -m connmark --mark %#[2]x/%#[2]x -j ACCEPT", c.Family, mark)
	}
	rule := fmt.Sprintf("ct mark and %#[1]x == %#[1]x accept", mark)
	if !c.typable() {
		return "insert this rule by netlink, as nft does not permit such a name: " + rule
	}
	return fmt.Sprintf("nft insert rule %s %s %s %s", c.Family, c.Table, c.Name, rule)
}

// typable reports whether both names are identifiers of nft(8) that need no quotes in a shell.
func (c BaseChain) typable() bool {
	for _, name := range []string{c.Table, c.Name} {
		if name == "" || strings.ContainsFunc(name, func(r rune) bool {
			return (r < 'a' || 'z' < r) && (r < 'A' || 'Z' < r) && (r < '0' || '9' < r) && !strings.ContainsRune("_.-", r)
		}) || strings.HasPrefix(name, "-") {
			return false
		}
	}
	return true
}
