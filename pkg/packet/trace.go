// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package packet

import "iter"

// Tracer follows packets through the packet rules of one family. It takes each client for a new one, which no affinity leads
// to the Backend of an earlier connection. It is safe for concurrent use.
type Tracer interface {
	// Trace returns what happens to p if each random choice falls on its last alternative.
	Trace(p Packet) Trace
	// Outcomes yields what happens to p for all random choices, each once. The Probabilities add up to 1.
	Outcomes(p Packet) iter.Seq[Trace]
}

// Trace is the result for a packet.
type Trace struct {
	Verdict Verdict
	// RejectWith is the answer to a rejected packet, such as "tcp-reset", "icmp-port-unreachable" or "icmp6-port-unreachable"
	// (iptables-extensions(8), --reject-with).
	RejectWith string
	// Packet is the packet as it leaves, with its final marks, source and destination.
	Packet Packet
	// Out is the outgoing link, or "" if the packet ends on the host.
	Out string
	// Masqueraded means that the source address becomes that of the link.
	Masqueraded bool
	// Clamped means that the announced TCP segment size is limited to the path MTU.
	Clamped bool
	// Remembered are the names of the kernel's lists of clients that recorded the source, for affinity.
	Remembered []string
	// Probability is that of the random choices that led here.
	Probability float64
	// LoopDetected means that the rules form a loop, or that the packet met too many rules. It counts as dropped. The kernel
	// rejects loops.
	LoopDetected bool
	// Rules is the number of rules that the packet met, whether they matched or not.
	Rules int
	// Steps are the rules that matched, and the foreign rules. Foreign rules are assumed not to match.
	Steps []Step
}

// Verdict is what finally happens to a packet.
type Verdict string

// The verdicts.
const (
	Accept Verdict = "accept"
	Drop   Verdict = "drop"
	// Reject drops the packet and answers with Trace.RejectWith.
	Reject Verdict = "reject"
)

// Step is a rule that a packet met.
type Step struct {
	Table, Chain string
	// Number is the position in the chain, counted from 1.
	Number int
	// Rule is the rule as the data plane spells it, for people.
	Rule string
}
