// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"cmp"
	"slices"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/netfilter"
)

// Options say how to build.
type Options struct {
	Ownership gateway.Ownership
	// RandomFully is set when MASQUERADE knows --random-fully.
	RandomFully bool
}

// The chains that always exist, without the prefix.
const (
	preroutingChain  = "PREROUTING"
	outputChain      = "OUTPUT"
	forwardChain     = "FORWARD"
	boundaryChain    = "BOUNDARY"
	refuseChain      = "REFUSE"
	servicesChain    = "SERVICES"
	postroutingChain = "POSTROUTING"
	markDropChain    = "MARK-DROP"
	markRejectChain  = "MARK-REJECT"
)

// Build returns the rules of one family that make the host do what the state asks for. A state that asks for nothing still
// has the fixed chains.
func Build(state gateway.State, family netfilter.Family, opts Options) netfilter.Ruleset {
	b := builder{family: family, own: opts.Ownership}
	return netfilter.Ruleset{Family: family, Tables: []netfilter.Table{
		b.table("mangle", func() { b.mangle(state.Uplinks) }),
		b.table("filter", func() { b.filter(state.Uplinks) }),
		b.table("nat", func() { b.nat(state.Forwards, opts.RandomFully) }),
	}}
}

// builder collects the chains of one table at a time.
type builder struct {
	family netfilter.Family
	own    gateway.Ownership
	chains []netfilter.Chain
	// sourceChains are the chains that check sources and exist already in the table.
	sourceChains map[string]bool
}

func (b *builder) table(name string, fill func()) netfilter.Table {
	b.chains = nil
	fill()
	slices.SortFunc(b.chains, func(x, y netfilter.Chain) int { return cmp.Compare(x.Name, y.Name) })
	return netfilter.Table{Name: name, Chains: b.chains}
}

// chain adds a chain of ours.
func (b *builder) chain(name string, rules ...netfilter.Rule) {
	b.chains = append(b.chains, netfilter.Chain{Name: b.name(name), Rules: rules})
}

// hook leads a built-in chain to a chain of ours.
func (b *builder) hook(builtIn, chain string) {
	b.chains = append(b.chains, netfilter.Chain{Name: builtIn, Rules: []netfilter.Rule{{Target: b.jump(chain)}}})
}

func (b *builder) name(chain string) string { return b.own.ChainPrefix + chain }

func (b *builder) jump(chain string) netfilter.Target {
	return netfilter.Target{Verb: netfilter.Jump, Chain: b.name(chain)}
}

func (b *builder) goTo(chain string) netfilter.Target {
	return netfilter.Target{Verb: netfilter.Goto, Chain: b.name(chain)}
}

// mangle keeps replies on the uplink that the connection came in by. The packet's mark is restored for replies alone: in
// the other direction it would lead packets for a backend out of the uplink.
func (b *builder) mangle(uplinks []gateway.Uplink) {
	restore := netfilter.Rule{
		Direction: netfilter.Reply,
		Target:    netfilter.Target{Verb: netfilter.RestoreMark, Mark: gateway.Mark{Mask: b.own.UplinkMask()}},
	}
	rules := []netfilter.Rule{restore}
	for _, u := range uplinks {
		rules = append(rules, netfilter.Rule{
			In:     u.Link,
			State:  netfilter.New,
			Target: netfilter.Target{Verb: netfilter.SetConnMark, Mark: b.own.Uplink(u.Number)},
		})
	}
	b.hook("PREROUTING", preroutingChain)
	b.chain(preroutingChain, rules...)
	b.hook("OUTPUT", outputChain)
	b.chain(outputChain, restore)
}

// filter refuses what nat marked, and holds the boundary. A forwarded connection passes first: it is never marked to be
// refused, as that clears its mark.
func (b *builder) filter(uplinks []gateway.Uplink) {
	accept := netfilter.Target{Verb: netfilter.Accept}
	rules := []netfilter.Rule{{ConnMark: b.own.Forwarded(), Target: accept}, {Target: b.jump(refuseChain)}}
	for _, u := range uplinks {
		rules = append(rules, netfilter.Rule{In: u.Link, Target: b.goTo(boundaryChain)})
	}
	b.hook("FORWARD", forwardChain)
	b.chain(forwardChain, rules...)

	back := netfilter.Target{Verb: netfilter.Return}
	b.chain(boundaryChain,
		// Published by somebody else on this host: the host's own rules decide.
		netfilter.Rule{State: netfilter.DNAT, Target: back},
		// Opened from inside.
		netfilter.Rule{State: netfilter.Related | netfilter.Established, Direction: netfilter.Reply, Target: back},
		netfilter.Rule{Target: netfilter.Target{Verb: netfilter.Drop}},
	)

	unreachable := "icmp-port-unreachable"
	if b.family == netfilter.IPv6 {
		unreachable = "icmp6-port-unreachable"
	}
	b.hook("INPUT", refuseChain)
	b.hook("OUTPUT", refuseChain)
	b.chain(refuseChain,
		netfilter.Rule{Mark: b.own.Drop(), Target: netfilter.Target{Verb: netfilter.Drop}},
		netfilter.Rule{Protocol: gateway.TCP, Mark: b.own.Reject(), Target: netfilter.Target{Verb: netfilter.Reject, RejectWith: "tcp-reset"}},
		netfilter.Rule{Mark: b.own.Reject(), Target: netfilter.Target{Verb: netfilter.Reject, RejectWith: unreachable}},
	)
}

// nat translates.
func (b *builder) nat(forwards []gateway.Forward, randomFully bool) {
	b.hook("PREROUTING", servicesChain)
	b.hook("OUTPUT", servicesChain)
	b.hook("POSTROUTING", postroutingChain)
	b.chain(postroutingChain, netfilter.Rule{
		ConnMark: b.own.Masquerade(),
		Target:   netfilter.Target{Verb: netfilter.Masquerade, RandomFully: randomFully},
	})
	b.chain(markDropChain, netfilter.Rule{Target: netfilter.Target{Verb: netfilter.SetMark, Mark: b.own.Drop()}})
	b.chain(markRejectChain, netfilter.Rule{Target: netfilter.Target{Verb: netfilter.SetMark, Mark: b.own.Reject()}})

	b.sourceChains = map[string]bool{}
	rules := b.dispatch(b.services(forwards))
	// Nothing was translated: no port matched, or the packet is to be refused.
	rules = append(rules, netfilter.Rule{
		ConnMark: b.own.Forwarded(),
		Target:   netfilter.Target{Verb: netfilter.SetConnMark, Mark: gateway.Mark{Mask: b.forwarded().Mask}},
	})
	b.chain(servicesChain, rules...)
}

// forwarded are the marks of a connection that we translate, unless its Forward says otherwise.
func (b *builder) forwarded() gateway.Mark {
	bits := b.own.Forwarded().Mask | b.own.Masquerade().Mask
	return gateway.Mark{Value: bits, Mask: bits}
}
