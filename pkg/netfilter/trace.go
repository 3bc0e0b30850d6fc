// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package netfilter

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/smartnat/smartnat/pkg/gateway"
)

// Packet is a packet, and what the kernel knows of its connection.
type Packet struct {
	// In is the link that it came in by; empty when the host itself sends it.
	In                  string
	Protocol            gateway.Protocol
	Source, Destination netip.AddrPort
	// State is one of the states, and DNAT or SNAT besides where earlier packets were translated.
	State CTState
	// Bridged is set when a bridge switches it.
	Bridged bool
	// Expected is set when a helper announced its connection.
	Expected       bool
	Direction      CTDirection
	Mark, ConnMark uint32
	// SYN is set when it begins a TCP connection, or answers such a one.
	SYN bool
	// Route says which link leads to a destination for packets with this mark, and "" for the host itself. Nil leads all
	// packets to the host itself.
	Route func(destination netip.Addr, mark uint32) string
	// Chance decides whether a rule matches that matches at random; nil says never, which meets the most rules.
	Chance func(probability uint32) bool
	// Recent says whether the source was seen within this time by the list of this name; nil says never.
	Recent func(list string, seconds uint32) bool
}

// tracked tells whether the packet belongs to a connection: without one there are neither marks of it nor directions.
func (p *Packet) tracked() bool { return p.State&(Invalid|Untracked) == 0 }

// Trace is what became of a packet.
type Trace struct {
	// Verdict is Accept, Drop or Reject.
	Verdict    Verb
	RejectWith string
	// Packet is the packet as it leaves, with its marks, its source and its destination; it is not tracked further.
	Packet Packet
	// Out is the link that it leaves by, or "" when it ends on the host.
	Out string
	// Masqueraded is set when its source becomes that of the link.
	Masqueraded bool
	// Clamped is set when the segment size that it offers is lowered to what the path takes.
	Clamped bool
	// Remembered are the lists of sources that took note of its source.
	Remembered []string
	// Endless is set when the rules lead in a circle, or back and forth for so long that the packet was given up: it counts
	// as dropped. The kernel takes no circles.
	Endless bool
	// Rules counts the rules that it met, whether they matched or not.
	Rules int
	// Steps are the rules that matched, and the foreign ones, of which it is not known and which are taken not to match.
	Steps []Step
}

// Step is a rule that a packet met.
type Step struct {
	Table, Chain string
	// Number counts the rules of a chain from 1, as iptables does.
	Number int
	Rule   Rule
}

// Tracer follows packets through one family's rules.
type Tracer struct {
	tables map[string]map[string]*Chain
	// sets are those that are known; nothing is in the others.
	sets map[string]Set
	// patience is how many rules a packet may meet. Rules that make sense lead a packet past few of them more than once.
	patience int
}

// NewTracer prepares the rules, built or parsed.
func NewTracer(rs Ruleset) *Tracer {
	t := &Tracer{tables: map[string]map[string]*Chain{}, sets: map[string]Set{}, patience: 1 << 14}
	for _, set := range rs.Sets {
		t.sets[set.Name] = set
	}
	for _, table := range rs.Tables {
		chains := make(map[string]*Chain, len(table.Chains))
		for _, c := range table.Chains {
			chains[c.Name] = c
			t.patience += 4 * len(c.Rules)
		}
		t.tables[table.Name] = chains
	}
	return t
}

// Trace follows one packet.
func (t *Tracer) Trace(p Packet) Trace {
	j := journey{tracer: t, Trace: Trace{Verdict: Accept, Packet: p}}
	j.travel()
	return j.Trace
}

// journey is a packet under way.
type journey struct {
	tracer *Tracer
	Trace
	// table is where it is.
	table string
	// depth is how many chains it is in.
	depth int
}

// travel passes the hooks in the kernel's order. Only the first packet of a connection meets the nat table.
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

// hook passes a built-in chain in each of the tables, and reports whether the packet is still under way.
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

// chain passes a chain, and reports whether the table is done with the packet; otherwise the packet is back at the caller.
func (j *journey) chain(c *Chain) bool {
	if j.depth++; j.depth > len(j.tracer.tables[j.table]) {
		return j.giveUp()
	}
	defer func() { j.depth-- }()
	for i := range c.Rules {
		r := &c.Rules[i]
		if j.Rules++; j.Rules > j.tracer.patience {
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
	j.Endless, j.Verdict = true, Drop
	return true
}

// act does what a target does, and reports whether the table is done with the packet.
func (j *journey) act(t *Target) bool {
	p := &j.Packet
	switch t.Verb {
	case Accept:
		return true
	case Drop, Reject:
		j.Verdict, j.RejectWith = t.Verb, t.RejectWith
		return true
	case Translate:
		p.Destination = t.translate(p.Destination.Port())
		p.State |= DNAT
		return true
	case TranslateSource:
		p.Source = netip.AddrPortFrom(t.Address, p.Source.Port())
		p.State |= SNAT
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

// translate returns where a packet to this port is sent. Of a range that is not shifted, the kernel takes any port and this
// the first.
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

// matchesConnection follows xt_conntrack, which asks a packet without connection for nothing but its state.
func (r *Rule) matchesConnection(p *Packet) bool {
	if !p.tracked() {
		return r.Direction == AnyDirection && !r.Expected || r.State != 0
	}
	return (r.Direction == AnyDirection || r.Direction == p.Direction) && (!r.Expected || p.Expected)
}

// recent asks a list of sources, or adds to it.
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
