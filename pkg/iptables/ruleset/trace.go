// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package ruleset

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/smartnat/smartnat/pkg/gateway"
)

// Packet is a packet with the conntrack state of its connection.
type Packet struct {
	// In is the incoming link, or "" for a packet that the host itself sends.
	In                  string
	Protocol            gateway.Protocol
	Source, Destination netip.AddrPort
	// State is one conntrack state, in addition to StateDNAT or StateSNAT if earlier packets were translated.
	State CTState
	// Bridged means that a bridge switches the packet.
	Bridged bool
	// Expected means that a conntrack helper announced the connection.
	Expected       bool
	Direction      CTDirection
	Mark, ConnMark uint32
	// SYN means that the packet begins a TCP connection or answers one that does.
	SYN bool
	// Route returns the link for a destination and mark, or "" for the host itself. If Route is nil, all packets end on the
	// host.
	Route func(destination netip.Addr, mark uint32) string
	// Chance decides whether a random match succeeds. If it is nil, none does, so that the packet meets as many rules as
	// possible.
	Chance func(probability uint32) bool
	// Recent reports whether the named list saw the source within the given seconds. If it is nil, no list did.
	Recent func(list string, seconds uint32) bool
}

// tracked reports whether the packet belongs to a connection. Without one there is no connection mark or direction.
func (p *Packet) tracked() bool { return p.State&(Invalid|Untracked) == 0 }

// Trace is the result for a packet.
type Trace struct {
	// Verdict is Accept, Drop or Reject.
	Verdict    Verb
	RejectWith string
	// Packet is the packet as it leaves, with its final marks, source and destination.
	Packet Packet
	// Out is the outgoing link, or "" if the packet ends on the host.
	Out string
	// Masqueraded means that the source address becomes that of the link.
	Masqueraded bool
	// Clamped means that the announced TCP segment size is limited to the path MTU.
	Clamped bool
	// Remembered are the xt_recent lists that recorded the source.
	Remembered []string
	// LoopDetected means that the rules form a loop, or that the packet met too many rules. It counts as dropped. The kernel
	// rejects loops.
	LoopDetected bool
	// Rules is the number of rules that the packet met, whether they matched or not.
	Rules int
	// Steps are the rules that matched, and the foreign rules. Foreign rules are assumed not to match.
	Steps []Step
}

// Step is a rule that a packet met.
type Step struct {
	Table, Chain string
	// Number is the position in the chain, counted from 1.
	Number int
	Rule   Rule
}

// Tracer follows packets through one family's rules.
type Tracer struct {
	tables map[string]map[string]*Chain
	// sets are the known sets. Other sets count as empty.
	sets map[string]Set
	// maxRules is the maximum number of rules that a packet may meet. Sensible rules lead a packet past few of them more than
	// once.
	maxRules int
}

// NewTracer returns a Tracer for built or parsed rules.
func NewTracer(rs Ruleset) *Tracer {
	t := &Tracer{tables: map[string]map[string]*Chain{}, sets: map[string]Set{}, maxRules: 1 << 14}
	for _, set := range rs.Sets {
		t.sets[set.Name] = set
	}
	for _, table := range rs.Tables {
		chains := make(map[string]*Chain, len(table.Chains))
		for _, c := range table.Chains {
			chains[c.Name] = c
			t.maxRules += 4 * len(c.Rules)
		}
		t.tables[table.Name] = chains
	}
	return t
}

// Trace traces one packet.
func (t *Tracer) Trace(p Packet) Trace {
	j := journey{tracer: t, Trace: Trace{Verdict: Accept, Packet: p}}
	j.travel()
	return j.Trace
}

// journey is the state of a trace.
type journey struct {
	tracer *Tracer
	Trace
	// table is the current table.
	table string
	// depth is the number of nested chains.
	depth int
}

// travel traverses the hooks in the kernel's order. Only the first packet of a connection traverses the nat table.
func (j *journey) travel() {
	if j.Packet.In == "" {
		j.Out = j.route()
		if !j.hook("OUTPUT", "raw", "mangle", "nat", "filter") {
			return
		}
		j.Out = j.route()
		j.hook("POSTROUTING", "mangle", "nat")
		return
	}
	if !j.hook("PREROUTING", "raw", "mangle", "nat") {
		return
	}
	if j.Out = j.route(); j.Out == "" {
		j.hook("INPUT", "mangle", "filter", "nat")
		return
	}
	if j.hook("FORWARD", "mangle", "filter") {
		j.hook("POSTROUTING", "mangle", "nat")
	}
}

func (j *journey) route() string {
	if j.Packet.Route == nil {
		return ""
	}
	return j.Packet.Route(j.Packet.Destination.Addr(), j.Packet.Mark)
}

// hook traverses a built-in chain in each table and reports whether the packet continues.
func (j *journey) hook(chain string, tables ...string) bool {
	for _, table := range tables {
		if table == "nat" && j.Packet.State&(New|Invalid|Untracked) != New {
			continue
		}
		base := j.tracer.tables[table][chain]
		if base == nil {
			continue
		}
		j.table = table
		if !j.chain(base) && base.Policy == "DROP" {
			j.Verdict = Drop
		}
		if j.Verdict != Accept {
			return false
		}
	}
	return true
}

// chain traverses a chain and reports whether the table is done with the packet. Otherwise the packet returns to the calling
// chain.
func (j *journey) chain(c *Chain) bool {
	if j.depth++; j.depth > len(j.tracer.tables[j.table]) {
		return j.giveUp()
	}
	defer func() { j.depth-- }()
	for i := range c.Rules {
		r := &c.Rules[i]
		if j.Rules++; j.Rules > j.tracer.maxRules {
			return j.giveUp()
		}
		matches := r.Foreign == "" && j.matches(r)
		if matches || r.Foreign != "" {
			j.Steps = append(j.Steps, Step{j.table, c.Name, i + 1, *r})
		}
		if !matches {
			continue
		}
		switch r.Target.Verb {
		case Jump:
			if next := j.tracer.tables[j.table][r.Target.Chain]; next != nil && j.chain(next) {
				return true
			}
		case Goto:
			next := j.tracer.tables[j.table][r.Target.Chain]
			return next != nil && j.chain(next)
		case Return:
			return false
		default:
			if j.act(&r.Target) {
				return true
			}
		}
	}
	return false
}

func (j *journey) giveUp() bool {
	j.LoopDetected, j.Verdict = true, Drop
	return true
}

// act performs a target and reports whether the table is done with the packet.
func (j *journey) act(t *Target) bool {
	p := &j.Packet
	switch t.Verb {
	case Accept:
		return true
	case Drop, Reject:
		j.Verdict, j.RejectWith = t.Verb, t.RejectWith
		return true
	case DNAT:
		p.Destination = t.translate(p.Destination.Port())
		p.State |= StateDNAT
		return true
	case SNAT:
		p.Source = netip.AddrPortFrom(t.Address, p.Source.Port())
		p.State |= StateSNAT
		return true
	case Masquerade:
		j.Masqueraded = true
		return true
	case ClampMSS:
		j.Clamped = true
	case SetMark:
		p.Mark = p.Mark&^t.Mark.Mask | t.Mark.Value
	case SetConnMark:
		if p.tracked() {
			p.ConnMark = p.ConnMark&^t.Mark.Mask | t.Mark.Value
		}
	case RestoreMark:
		if p.tracked() {
			p.Mark = p.Mark&^t.Mark.Mask | p.ConnMark&t.Mark.Mask
		}
	}
	return false
}

// translate returns the new destination for port. For a range without BasePort the kernel picks any port; this picks the
// first.
func (t *Target) translate(port uint16) netip.AddrPort {
	switch {
	case t.Ports == gateway.PortRange{}:
	case t.BasePort != 0:
		port = t.Ports.First + port - t.BasePort
	default:
		port = t.Ports.First
	}
	return netip.AddrPortFrom(t.Address, port)
}

func (j *journey) matches(r *Rule) bool {
	p := &j.Packet
	return (!r.Source.IsValid() || r.Source.Contains(p.Source.Addr())) &&
		(!r.Destination.IsValid() || r.Destination.Contains(p.Destination.Addr())) &&
		(r.SourceSet.Name == "" || j.tracer.sets[r.SourceSet.Name].contains(p.Source.Addr()) != r.SourceSet.Not) &&
		matchesLink(r.In, p.In) && matchesLink(r.Out, j.Out) &&
		(r.Protocol == "" || r.Protocol == p.Protocol) &&
		(r.DestinationPorts == gateway.PortRange{} || r.DestinationPorts.Contains(p.Destination.Port())) &&
		(r.Multiport == "" || matchesAnyPort(r.Multiport, p.Destination.Port())) &&
		(!r.SYN || p.SYN) && (!r.Bridged || p.Bridged) &&
		p.Mark&r.Mark.Mask == r.Mark.Value &&
		(r.ConnMark.Mask == 0 || p.tracked() && p.ConnMark&r.ConnMark.Mask == r.ConnMark.Value) &&
		(r.State == 0 || r.State&p.State != 0) &&
		r.matchesConnection(p) &&
		(r.Probability == 0 || p.Chance != nil && p.Chance(r.Probability)) &&
		(r.Recent.Name == "" || j.recent(r.Recent))
}

func (s Set) contains(a netip.Addr) bool {
	return slices.ContainsFunc(s.Members, func(p netip.Prefix) bool { return p.Contains(a) })
}

// matchesConnection follows xt_conntrack, which checks only the state of a packet without a connection.
func (r *Rule) matchesConnection(p *Packet) bool {
	if !p.tracked() {
		return r.Direction == AnyDirection && !r.Expected || r.State != 0
	}
	return (r.Direction == AnyDirection || r.Direction == p.Direction) && (!r.Expected || p.Expected)
}

// recent checks a list of sources or adds to it.
func (j *journey) recent(r Recent) bool {
	if r.Seconds > 0 && (j.Packet.Recent == nil || !j.Packet.Recent(r.Name, r.Seconds)) {
		return false
	}
	j.Remembered = append(j.Remembered, r.Name)
	return true
}

func matchesLink(pattern, link string) bool {
	if start, wild := strings.CutSuffix(pattern, "+"); wild {
		return strings.HasPrefix(link, start)
	}
	return pattern == "" || pattern == link
}

func matchesAnyPort(list string, port uint16) bool {
	for s := range strings.SplitSeq(list, ",") {
		var r gateway.PortRange
		if ports(&r, s, ":") && r.Contains(port) {
			return true
		}
	}
	return false
}
