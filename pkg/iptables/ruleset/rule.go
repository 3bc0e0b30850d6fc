// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package ruleset

import (
	"net/netip"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/packet"
)

// Ruleset is the content of one family's tables. A desired Ruleset holds only what is ours: our chains completely and, of
// each built-in chain, the rules that jump to ours and must be at its top. An observed Ruleset holds everything that was
// read.
type Ruleset struct {
	Family gateway.Family
	// Tables are in the order in which they can be written safely: mangle, filter, nat, raw.
	Tables []Table
	// Sets are the sets that the desired rules reference, sorted by name. They are written separately and must exist for as
	// long as the rules do. An observed Ruleset has none, unless they were read as well.
	Sets []Set
}

// Set is a set of networks whose lookup time in the kernel does not depend on its size (ipset(8), hash:net).
type Set struct {
	// Name has at most 31 characters. It identifies the owner and not the content, so that a change of members changes no
	// rule.
	Name   string
	Family gateway.Family
	// Members are masked, sorted and unique. None is the whole address space, which such a set cannot hold.
	Members []netip.Prefix
}

// Table is one table of a family.
type Table struct {
	Name string
	// Chains are sorted by name. Tables share them, so a Chain in a table must not be changed.
	Chains []*Chain
}

// Chain is a chain, built-in or not.
type Chain struct {
	Name string
	// Policy is the observed policy of a built-in chain, "ACCEPT" or "DROP". It is never written.
	Policy string
	Rules  []Rule
}

// Limits of the kernel.
const (
	// ProbabilityOne is the Probability that always matches.
	ProbabilityOne = 1 << 31
	// MaxComment is the maximum length of a comment in bytes.
	MaxComment = 255
	// MaxMultiport is the maximum number of ports in a Multiport.
	MaxMultiport = 15
)

// Rule is one rule. It is comparable: the same rule has the same value whether it was built or read from either variant. A
// match with its zero value is absent.
type Rule struct {
	Source, Destination netip.Prefix
	// SourceSet matches the source address.
	SourceSet SetMatch
	// In and Out are link names; a trailing "+" is a wildcard (iptables(8)).
	In, Out  string
	Protocol gateway.Protocol
	// DestinationPorts is `--dport`. It requires Protocol.
	DestinationPorts gateway.PortRange
	// Multiport is `-m multiport --dports` as iptables spells it, such as "80,443,8000:8010": at most 15 ports, with a range
	// counted as two. It requires Protocol.
	Multiport string
	// SYN is `--tcp-flags SYN,RST SYN`: the packet begins a TCP connection or answers one that does. It requires Protocol.
	SYN bool
	// Bridged is `-m physdev --physdev-is-bridged`: a bridge switches the frame, and the host does not route it.
	Bridged bool
	// State matches any of its states. xt_conntrack counts DNAT and SNAT as states.
	State packet.State
	// Expected is `--ctstatus EXPECTED`: a conntrack helper announced the connection (nf_conntrack_expect), such as FTP data.
	Expected bool
	// Direction is the direction of the packet within its connection.
	Direction packet.Direction
	// Mark and ConnMark match (mark & Mask) == Value. Mask 0 means absent.
	Mark, ConnMark gateway.Mark
	// Probability matches at random, in units of 1/2^31 (the resolution of xt_statistic). 0 means absent.
	Probability uint32
	// Recent is the last match of a rule, so it remembers only packets that all other matches accepted.
	Recent  Recent
	Comment string
	Target  Target
	// Foreign is the text after `-A CHAIN` of a rule with anything that SmartNat never writes. No other field is meaningful
	// then, except a Target with Jump or Goto.
	Foreign string
}

// SetMatch is `-m set --match-set NAME src`. The zero value is absent.
type SetMatch struct {
	Name string
	// Not negates the match.
	Not bool
}

// Recent matches sources in a list of xt_recent, or adds them to it. The zero value is absent.
type Recent struct {
	// Name is the name of the list.
	Name string
	// Seconds, if not zero, matches sources that were seen within this time and updates their time. It also expires the
	// source that was unseen longest, if that exceeds the time. Zero adds the source to the list and always matches.
	Seconds uint32
}

// AnyDirection is the Direction of a rule that matches both.
const AnyDirection packet.Direction = 0

// Verb is the action of a target.
type Verb uint8

// The targets that SmartNat uses.
const (
	None Verb = iota
	Jump
	Goto
	Accept
	Drop
	Return
	// Reject answers with Target.RejectWith.
	Reject
	// DNAT translates the destination to Target.Address and Target.Ports.
	DNAT
	// SNAT translates the source to Target.Address and Target.Ports.
	SNAT
	Masquerade
	// SetMark and SetConnMark are --set-xmark Mark.Value/Mark.Mask with Value within Mask: the bits of Mask are set to Value.
	SetMark
	SetConnMark
	// RestoreMark copies the bits of Mark.Mask from the connection mark to the packet mark.
	RestoreMark
	// ClampMSS is TCPMSS --clamp-mss-to-pmtu.
	ClampMSS
	// AssignHelper is CT --helper Target.Helper; it belongs into the table raw.
	AssignHelper
)

// Target is the action for a packet that matches.
type Target struct {
	Verb Verb
	// Chain is the destination of Jump and Goto.
	Chain string
	// Mark is the operand of SetMark, SetConnMark and RestoreMark.
	Mark gateway.Mark
	// Address is the new destination for DNAT and the new source for SNAT.
	Address netip.Addr
	// Ports is the destination port or range of DNAT; zero keeps the packet's port. For Masquerade and SNAT it is the range
	// of source ports; zero lets the kernel choose. It requires the rule's Protocol.
	Ports gateway.PortRange
	// BasePort, if set, translates port p to Ports.First+p-BasePort ("--to-destination 10.0.0.1:8000-8009/20000").
	BasePort uint16
	// RejectWith is the value of --reject-with, such as "icmp-port-unreachable" or "tcp-reset".
	RejectWith string
	// Helper is the kernel's name of a connection tracking helper, "ftp" or "tftp".
	Helper string
	// RandomFully is --random-fully of Masquerade and SNAT.
	RandomFully bool
}
