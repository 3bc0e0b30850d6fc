// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package netfilter

import (
	"net/netip"

	"github.com/smartnat/smartnat/pkg/gateway"
)

// Family is an address family: each has its own programs and its own tables.
type Family int

// The families.
const (
	IPv4 Family = 4
	IPv6 Family = 6
)

// Ruleset is what one family's tables hold. Desired, it holds only what is ours: our chains whole, and of each built-in
// chain the rules that lead to ours, which are to stand first in it. Observed, it holds everything that was read.
type Ruleset struct {
	Family Family
	// Tables are in the order in which they may safely be written: mangle, filter, nat.
	Tables []Table
	// Sets are those that the desired rules name, sorted by name. They are not written with the rules: they have to be there
	// before the rules, and to stay as long. Observed, there are none.
	Sets []Set
}

// Set is a set of networks that the kernel looks up at once however many there are (ipset(8), hash:net).
type Set struct {
	// Name has at most 31 characters. It says whose set it is, not what is in it: the members change and no rule does.
	Name   string
	Family Family
	// Members are masked, sorted, without duplicates, and none is the whole family, which such a set cannot hold.
	Members []netip.Prefix
}

// Table is one table of a family.
type Table struct {
	Name string
	// Chains are sorted by name. Tables share them: a Chain that is in one is not changed any more.
	Chains []*Chain
}

// Chain is a chain, built-in or not.
type Chain struct {
	Name string
	// Policy is that of a built-in chain as it was read, "ACCEPT" or "DROP". It is never written.
	Policy string
	Rules  []Rule
}

// What the kernel has room for.
const (
	// Certain is the Probability that would always match.
	Certain = 1 << 31
	// MaxComment is the length of the longest comment.
	MaxComment = 255
	// MaxMultiport is how many ports a Multiport may name.
	MaxMultiport = 15
)

// Rule is one rule. It is comparable, and the same rule has the same value whether it was built or read back from
// either back end. A match at its zero value is absent.
type Rule struct {
	Source, Destination netip.Prefix
	// SourceSet matches the source.
	SourceSet SetMatch
	// In and Out are link names; a trailing "+" matches any rest (iptables(8)).
	In, Out  string
	Protocol gateway.Protocol
	// DestinationPorts is `--dport`; it needs Protocol.
	DestinationPorts gateway.PortRange
	// Multiport is `-m multiport --dports` as iptables spells it, "80,443,8000:8010": at most 15 ports, a range counts
	// as two. It needs Protocol.
	Multiport string
	// SYN is `--tcp-flags SYN,RST SYN`: the packet begins a TCP connection, or is the answer to such a one. It needs Protocol.
	SYN bool
	// Bridged is `-m physdev --physdev-is-bridged`: a bridge switches the frame, and the host does not route it.
	Bridged bool
	// State matches any of the states set in it.
	State CTState
	// Expected is `--ctstatus EXPECTED`: a helper announced the connection (nf_conntrack_expect), such as the data of FTP.
	Expected bool
	// Direction is the direction of the packet within its connection.
	Direction CTDirection
	// Mark and ConnMark match (mark & Mask) == Value; Mask 0 is absent.
	Mark, ConnMark gateway.Mark
	// Probability matches at random, in units of 1/2^31 (xt_statistic's own resolution); 0 is absent.
	Probability uint32
	// Recent is the last match of a rule: it remembers the packets that all others let through.
	Recent  Recent
	Comment string
	Target  Target
	// Foreign is set when the rule says something that SmartNat never says: its text as read, behind `-A CHAIN`. Nothing
	// else of the Rule is meaningful then but a Target that is a Jump or a Goto.
	Foreign string
}

// SetMatch is `-m set --match-set NAME src`; the zero value is absent.
type SetMatch struct {
	Name string
	// Not matches what is not in the set.
	Not bool
}

// Recent matches sources that are in a list of xt_recent, or adds them to it; the zero value is absent.
type Recent struct {
	// Name is that of the list.
	Name string
	// Seconds matches sources that were seen within this time, forgets the longest unseen one beyond it, and sees those that
	// match again now. Zero puts the source into the list, and always matches.
	Seconds uint32
}

// CTState is a set of conntrack states (iptables-extensions(8), conntrack --ctstate).
type CTState uint8

// The states. DNAT is xt_conntrack's virtual state: the original destination differs from the reply source.
const (
	New CTState = 1 << iota
	Established
	Related
	Invalid
	Untracked
	SNAT
	DNAT
)

// CTDirection is the direction of a packet within its connection.
type CTDirection uint8

// The directions.
const (
	AnyDirection CTDirection = iota
	Original
	Reply
)

// Verb is what a target does.
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
	// Translate is DNAT to Target.Address and Target.Ports.
	Translate
	// TranslateSource is SNAT to Target.Address.
	TranslateSource
	Masquerade
	// SetMark and SetConnMark are --set-xmark Mark.Value/Mark.Mask where Value is within Mask: the bits of Mask become Value.
	SetMark
	SetConnMark
	// RestoreMark copies the bits of Mark.Mask from the connection's mark to the packet's.
	RestoreMark
	// ClampMSS is TCPMSS --clamp-mss-to-pmtu.
	ClampMSS
)

// Target is what happens to a packet that matches.
type Target struct {
	Verb Verb
	// Chain is where Jump and Goto lead.
	Chain string
	// Mark is the operand of SetMark, SetConnMark and RestoreMark.
	Mark gateway.Mark
	// Address is where Translate leads, and where packets come from after TranslateSource.
	Address netip.Addr
	// Ports is the port, or the range, that Translate leads to; zero keeps the packet's port. For Masquerade it is the range of
	// source ports; zero leaves them to the kernel. It needs the rule's Protocol.
	Ports gateway.PortRange
	// BasePort is set when a packet to port p goes to Ports.First+p-BasePort ("--to-destination 10.0.0.1:8000-8009/20000").
	BasePort uint16
	// RejectWith is as iptables spells it: "icmp-port-unreachable", "tcp-reset".
	RejectWith string
	// RandomFully is --random-fully of Masquerade and TranslateSource.
	RandomFully bool
}
