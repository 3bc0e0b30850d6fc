// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package ruleset

import (
	"cmp"
	"iter"
	"slices"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/packet"
)

// Tracer follows packets through a table. It executes the expressions as nft_do_chain does (net/netfilter/nf_tables_core.c). It
// implements packet.Tracer.
type Tracer struct {
	table   Table
	name    string
	bridged gateway.Mark
	// hooks are the base chains in the order of the kernel.
	hooks  map[HookPoint][]*Chain
	chains map[string]*Chain
	sets   map[string]*index
	*speller
	// maxRules is the maximum number of rules that a packet may meet.
	maxRules int
	// recent is that of Remembering.
	recent func(set string) bool
}

var _ packet.Tracer = (*Tracer)(nil)

// NewTracer returns a Tracer for a built or decoded table, which Steps call by name. Packets that a bridge switches have the
// mark bridged.
func NewTracer(table Table, name string, bridged gateway.Mark) *Tracer {
	t := &Tracer{
		table: table, name: name, bridged: bridged, speller: newSpeller(table), maxRules: 1 << 12,
		hooks: map[HookPoint][]*Chain{}, chains: make(map[string]*Chain, len(table.Chains)), sets: make(map[string]*index, len(table.Sets)),
	}
	for i := range table.Chains {
		c := &table.Chains[i]
		t.chains[c.Name] = c
		if c.Hook != nil {
			t.hooks[c.Hook.Point] = append(t.hooks[c.Hook.Point], c)
		}
	}
	for _, chains := range t.hooks {
		slices.SortStableFunc(chains, func(a, b *Chain) int { return cmp.Compare(a.Hook.Priority, b.Hook.Priority) })
	}
	for i := range table.Sets {
		t.sets[table.Sets[i].Name] = newIndex(&table.Sets[i])
	}
	return t
}

// Remembering returns a Tracer for the same table that asks recent whether the Dynamic set has the key. Otherwise none does.
func (t *Tracer) Remembering(recent func(set string) bool) *Tracer {
	remembers := *t
	remembers.recent = recent
	return &remembers
}

// Trace implements packet.Tracer.
func (t *Tracer) Trace(p packet.Packet) packet.Trace {
	return t.trace(p, func(alternatives uint32) uint32 { return alternatives - 1 })
}

// Outcomes implements packet.Tracer.
func (t *Tracer) Outcomes(p packet.Packet) iter.Seq[packet.Trace] {
	return func(yield func(packet.Trace) bool) {
		// The choices of the last trace count up like digits.
		type choice struct{ value, alternatives uint32 }
		var choices []choice
		for {
			asked := 0
			trace := t.trace(p, func(alternatives uint32) uint32 {
				if asked == len(choices) {
					choices = append(choices, choice{alternatives: alternatives})
				}
				asked++
				return choices[asked-1].value
			})
			if !yield(trace) {
				return
			}
			for len(choices) > 0 && choices[len(choices)-1].value+1 == choices[len(choices)-1].alternatives {
				choices = choices[:len(choices)-1]
			}
			if len(choices) == 0 {
				return
			}
			choices[len(choices)-1].value++
		}
	}
}

// trace follows a packet. choose returns one of several alternatives, which count from 0.
func (t *Tracer) trace(p packet.Packet, choose func(alternatives uint32) uint32) packet.Trace {
	j := journey{Tracer: t, choose: choose, Trace: packet.Trace{Verdict: packet.Accept, Packet: p, Probability: 1}}
	if p.Bridged && len(t.table.Bridge) > 0 {
		j.Packet.Mark = p.Mark&^t.bridged.Mask | t.bridged.Value
	}
	j.travel()
	return j.Trace
}

// journey is the state of a trace.
type journey struct {
	*Tracer
	packet.Trace
	choose func(alternatives uint32) uint32
	// translated means that a chain of the current hook translated the connection, so that further ones do not.
	translated bool
}

// travel traverses the hooks in the kernel's order.
func (j *journey) travel() {
	if j.Packet.In == "" {
		j.Out = j.route()
		if j.hook(Output) {
			j.hook(Postrouting)
		}
		return
	}
	if !j.hook(Prerouting) {
		return
	}
	if j.Out = j.route(); j.Out == "" {
		j.hook(Input)
		return
	}
	if j.hook(Forward) {
		j.hook(Postrouting)
	}
}

func (j *journey) route() string {
	if j.Packet.Route == nil {
		return ""
	}
	return j.Packet.Route(j.Packet.Destination.Addr(), j.Packet.Mark)
}

// hook traverses the base chains of a hook and reports whether the packet continues. Only the first packet of a connection meets
// those of the nat type.
func (j *journey) hook(point HookPoint) bool {
	j.translated = false
	for _, base := range j.hooks[point] {
		if base.Hook.Type == NATType && (j.translated || j.Packet.State&(packet.New|packet.Invalid|packet.Untracked) != packet.New) {
			continue
		}
		if j.evaluate(base) != Accept {
			if j.Verdict == packet.Accept {
				j.Verdict = packet.Drop
			}
			return false
		}
		if point == Output {
			// The kernel routes a packet of the host again if its destination or mark changed.
			j.Out = j.route()
		}
	}
	return true
}

// maxJumps is the number of chains that wait for a called one (NFT_JUMP_STACK_SIZE in net/netfilter/nf_tables.h).
const maxJumps = 16

// position is the next rule of a chain.
type position struct {
	*Chain
	next int
}

// evaluate traverses a base chain and the chains to which it leads, and returns Accept or Drop. The end of a base chain accepts.
func (j *journey) evaluate(base *Chain) VerdictCode {
	var waiting []position
	m := machine{journey: j}
	at := position{Chain: base}
	for {
		v := Verdict{Code: Return}
		if at.next < len(at.Rules) {
			if j.Rules++; j.Rules > j.maxRules {
				return j.giveUp()
			}
			v = m.rule(at)
			at.next++
		}
		switch v.Code {
		case Continue:
		case Accept:
			return Accept
		case Return:
			if len(waiting) == 0 {
				return Accept
			}
			at, waiting = waiting[len(waiting)-1], waiting[:len(waiting)-1]
		case Jump, Goto:
			next := j.chains[v.Chain]
			if next == nil || len(waiting) == maxJumps {
				return j.giveUp()
			}
			if v.Code == Jump {
				waiting = append(waiting, at)
			}
			at = position{Chain: next}
		default:
			return Drop
		}
	}
}

func (j *journey) giveUp() VerdictCode {
	j.LoopDetected, j.Verdict = true, packet.Drop
	return Drop
}

// rule executes a rule, and returns Continue if it does not match.
func (m *machine) rule(at position) Verdict {
	r := &at.Rules[at.next]
	foreign := slices.ContainsFunc(r.Exprs, func(e Expr) bool { _, ok := e.(Unknown); return ok })
	verdict := continues
	for _, e := range r.Exprs {
		if foreign || verdict.Code != Continue {
			break
		}
		v, matches := m.expr(e)
		if !matches {
			return continues
		}
		verdict = v
	}
	text, _ := m.Rule(r) // Where nft(8) cannot spell a rule, the text says as much as possible.
	m.Steps = append(m.Steps, packet.Step{Table: m.name, Chain: at.Name, Number: at.next + 1, Rule: text})
	return verdict
}
