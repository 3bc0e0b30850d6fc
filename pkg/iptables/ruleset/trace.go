// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package ruleset

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/packet"
)

// Tracer follows packets through one family's rules. It implements packet.Tracer.
type Tracer struct {
	tables map[string]map[string]*Chain
	// sets are the known sets. Other sets count as empty.
	sets map[string]Set
	// maxRules is the maximum number of rules that a packet may meet. Sensible rules lead a packet past few of them more than
	// once.
	maxRules int
	// chance and recent are those of Choosing and Remembering.
	chance func(probability uint32) bool
	recent func(list string, seconds uint32) bool
}

var _ packet.Tracer = (*Tracer)(nil)

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

// Choosing returns a Tracer for the same rules that asks chance whether a random match succeeds. Otherwise none does, so that
// a packet meets as many rules as possible.
func (t *Tracer) Choosing(chance func(probability uint32) bool) *Tracer {
	chooses := *t
	chooses.chance = chance
	return &chooses
}

// Remembering returns a Tracer for the same rules that asks recent whether the named list saw the source within the given
// seconds. Otherwise no list did.
func (t *Tracer) Remembering(recent func(list string, seconds uint32) bool) *Tracer {
	remembers := *t
	remembers.recent = recent
	return &remembers
}

// Trace implements packet.Tracer.
func (t *Tracer) Trace(p packet.Packet) packet.Trace {
	j := journey{tracer: t, Trace: packet.Trace{Verdict: packet.Accept, Packet: p, Probability: 1}}
	j.travel()
	return j.Trace
}

// journey is the state of a trace.
type journey struct {
	tracer *Tracer
	packet.Trace
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
		if table == "nat" && j.Packet.State&(packet.New|packet.Invalid|packet.Untracked) != packet.New {
			continue
		}
		base := j.tracer.tables[table][chain]
		if base == nil {
			continue
		}
		j.table = table
		if !j.chain(base) && base.Policy == "DROP" {
			j.Verdict = packet.Drop
		}
		if j.Verdict != packet.Accept {
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
			j.Steps = append(j.Steps, packet.Step{Table: j.table, Chain: c.Name, Number: i + 1, Rule: r.String()})
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
	j.LoopDetected, j.Verdict = true, packet.Drop
	return true
}

// act performs a target and reports whether the table is done with the packet.
func (j *journey) act(t *Target) bool {
	p := &j.Packet
	switch t.Verb {
	case Accept:
		return true
	case Drop:
		j.Verdict = packet.Drop
		return true
	case Reject:
		j.Verdict, j.RejectWith = packet.Reject, t.RejectWith
		return true
	case DNAT:
		p.Destination = t.translate(p.Destination.Port())
		p.State |= packet.DNAT
		return true
	case SNAT:
		p.Source = t.translateSource(p.Source.Port())
		p.State |= packet.SNAT
		return true
	case Masquerade:
		j.Masqueraded = true
		return true
	case ClampMSS:
		j.Clamped = true
	case SetMark:
		p.Mark = p.Mark&^t.Mark.Mask | t.Mark.Value
	case SetConnMark:
		if p.Tracked() {
			p.ConnMark = p.ConnMark&^t.Mark.Mask | t.Mark.Value
		}
	case RestoreMark:
		if p.Tracked() {
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

// translateSource returns the new source for port. The kernel keeps a port within the range if no other connection has it, and
// without --random-fully; for another one it picks any port, and this picks the first.
func (t *Target) translateSource(port uint16) netip.AddrPort {
	if t.Ports != (gateway.PortRange{}) && !t.Ports.Contains(port) {
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
		(r.ConnMark.Mask == 0 || p.Tracked() && p.ConnMark&r.ConnMark.Mask == r.ConnMark.Value) &&
		(r.State == 0 || r.State&p.State != 0) &&
		r.matchesConnection(p) &&
		(r.Probability == 0 || j.chance(r.Probability)) &&
		(r.Recent.Name == "" || j.recent(r.Recent))
}

func (s Set) contains(a netip.Addr) bool {
	return slices.ContainsFunc(s.Members, func(p netip.Prefix) bool { return p.Contains(a) })
}

// matchesConnection follows xt_conntrack, which checks only the state of a packet without a connection.
func (r *Rule) matchesConnection(p *packet.Packet) bool {
	if !p.Tracked() {
		return r.Direction == AnyDirection && !r.Expected || r.State != 0
	}
	return (r.Direction == AnyDirection || r.Direction == p.Direction) && (!r.Expected || p.Expected)
}

// chance makes a random choice.
func (j *journey) chance(share uint32) bool {
	matches, probability := j.tracer.chance != nil && j.tracer.chance(share), float64(share)/ProbabilityOne
	if !matches {
		probability = 1 - probability
	}
	j.Probability *= probability
	return matches
}

// recent checks a list of sources or adds to it.
func (j *journey) recent(r Recent) bool {
	if r.Seconds > 0 && (j.tracer.recent == nil || !j.tracer.recent(r.Name, r.Seconds)) {
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
