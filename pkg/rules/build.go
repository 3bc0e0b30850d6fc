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
	// RandomFully is set when MASQUERADE and SNAT know --random-fully.
	RandomFully bool
	// Sets is set when the host knows sets of addresses; without them each source of a long list is a rule.
	Sets bool
}

// The chains that always exist, without the prefix.
const (
	preroutingChain  = "PREROUTING"
	outputChain      = "OUTPUT"
	forwardChain     = "FORWARD"
	boundaryChain    = "BOUNDARY"
	refuseChain      = "REFUSE"
	inputChain       = "INPUT"
	egressChain      = "EGRESS"
	podsChain        = "PODS"
	servicesChain    = "SERVICES"
	keepSourceChain  = "KEEP-SOURCE"
	postroutingChain = "POSTROUTING"
	markDropChain    = "MARK-DROP"
	markRejectChain  = "MARK-REJECT"
)

// Build returns the rules of one family that make the host do what the state asks for. A state that asks for nothing still
// has the fixed chains.
func Build(state gateway.State, family netfilter.Family, opts Options) netfilter.Ruleset {
	b := builder{family: family, own: opts.Ownership, state: state}
	return netfilter.Ruleset{Family: family, Tables: []netfilter.Table{
		b.table("mangle", b.mangle),
		b.table("filter", b.filter),
		b.table("nat", func() { b.nat(opts.RandomFully) }),
	}}
}

// builder collects the chains of one table at a time.
type builder struct {
	family netfilter.Family
	own    gateway.Ownership
	state  gateway.State
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
func (b *builder) mangle() {
	restore := netfilter.Rule{
		Direction: netfilter.Reply,
		Target:    netfilter.Target{Verb: netfilter.RestoreMark, Mark: gateway.Mark{Mask: b.own.UplinkMask()}},
	}
	rules := []netfilter.Rule{restore}
	for _, u := range b.state.Uplinks {
		rules = append(rules, netfilter.Rule{
			In:     u.Link,
			State:  netfilter.New,
			Target: netfilter.Target{Verb: netfilter.SetConnMark, Mark: b.own.Uplink(u.Number)},
		})
	}
	b.hook("PREROUTING", preroutingChain)
	b.chain(preroutingChain, append(rules, b.markEgress()...)...)
	b.hook("OUTPUT", outputChain)
	b.chain(outputChain, restore)
	if b.state.ClampMSS {
		// Not before POSTROUTING is the first packet of a pod's connection known to be ours.
		b.hook("POSTROUTING", postroutingChain)
		b.chain(postroutingChain, netfilter.Rule{
			Protocol: gateway.TCP, SYN: true, ConnMark: b.own.Forwarded(), Target: netfilter.Target{Verb: netfilter.ClampMSS},
		})
	}
}

// filter refuses what nat marked, and holds the boundary. A forwarded connection passes first: it is never marked to be
// refused, as that clears its mark.
func (b *builder) filter() {
	accept, drop := netfilter.Target{Verb: netfilter.Accept}, netfilter.Target{Verb: netfilter.Drop}
	input := []netfilter.Rule{{Target: b.jump(refuseChain)}}
	forward := []netfilter.Rule{{ConnMark: b.own.Forwarded(), Target: accept}, {Target: b.jump(refuseChain)}}
	for _, u := range b.state.Uplinks {
		input = append(input, netfilter.Rule{In: u.Link, State: netfilter.Invalid, Target: drop})
		// An answer of a backend that belongs to no connection would leave with the backend's own address.
		forward = append(forward, netfilter.Rule{Out: u.Link, State: netfilter.Invalid, Target: drop})
	}
	forward = append(forward, b.acceptEgress()...)
	for _, u := range b.state.Uplinks {
		forward = append(forward, netfilter.Rule{In: u.Link, Target: b.goTo(boundaryChain)})
	}
	b.hook("FORWARD", forwardChain)
	b.chain(forwardChain, forward...)

	back := netfilter.Target{Verb: netfilter.Return}
	b.chain(boundaryChain,
		// Published by somebody else on this host: the host's own rules decide.
		netfilter.Rule{State: netfilter.DNAT, Target: back},
		// Opened from inside.
		netfilter.Rule{State: netfilter.Related | netfilter.Established, Direction: netfilter.Reply, Target: back},
		netfilter.Rule{Target: drop},
	)

	unreachable := "icmp-port-unreachable"
	if b.family == netfilter.IPv6 {
		unreachable = "icmp6-port-unreachable"
	}
	b.hook("INPUT", inputChain)
	b.chain(inputChain, input...)
	b.hook("OUTPUT", outputChain)
	b.chain(outputChain, b.refuseOutput()...)
	b.chain(refuseChain,
		netfilter.Rule{Mark: b.own.Drop(), Target: drop},
		netfilter.Rule{Protocol: gateway.TCP, Mark: b.own.Reject(), Target: netfilter.Target{Verb: netfilter.Reject, RejectWith: "tcp-reset"}},
		netfilter.Rule{Mark: b.own.Reject(), Target: netfilter.Target{Verb: netfilter.Reject, RejectWith: unreachable}},
	)
}

// refuseOutput refuses what the host itself sends and nat marked. The kernel sends its reports of multicast groups (IGMP, MLD)
// with something else where the mark is, as mark and reserved_tailroom share their place: only protocols that nat
// marks are asked for theirs.
func (b *builder) refuseOutput() []netfilter.Rule {
	protocols := []gateway.Protocol{gateway.TCP, gateway.UDP, gateway.SCTP}
	rules := make([]netfilter.Rule, 0, len(protocols))
	for _, p := range protocols {
		rules = append(rules, netfilter.Rule{Protocol: p, Target: b.jump(refuseChain)})
	}
	return rules
}

// nat translates.
func (b *builder) nat(randomFully bool) {
	b.hook("PREROUTING", servicesChain)
	b.hook("OUTPUT", servicesChain)
	b.hook("POSTROUTING", postroutingChain)
	masquerade := netfilter.Rule{
		ConnMark: b.own.Masquerade(),
		Target:   netfilter.Target{Verb: netfilter.Masquerade, RandomFully: randomFully},
	}
	b.chain(postroutingChain, append([]netfilter.Rule{masquerade}, b.translateEgress(randomFully)...)...)
	b.chain(markDropChain, netfilter.Rule{Target: netfilter.Target{Verb: netfilter.SetMark, Mark: b.own.Drop()}})
	b.chain(markRejectChain, netfilter.Rule{Target: netfilter.Target{Verb: netfilter.SetMark, Mark: b.own.Reject()}})
	b.keepSource()

	b.sourceChains = map[string]bool{}
	rules := b.dispatch(b.services(b.state.Forwards), b.toServices)
	// Nothing was translated: no port matched, or the packet is to be refused.
	rules = append(rules, netfilter.Rule{
		ConnMark: b.own.Forwarded(),
		Target:   netfilter.Target{Verb: netfilter.SetConnMark, Mark: gateway.Mark{Mask: b.forwarded().Mask}},
	})
	b.chain(servicesChain, rules...)
}

// keepSource leaves the address of who comes in by an uplink as it is. Who comes from elsewhere, a pod or the host itself,
// is hidden all the same: the answer would pass the host by.
func (b *builder) keepSource() {
	rules := make([]netfilter.Rule, 0, len(b.state.Uplinks))
	for _, u := range b.state.Uplinks {
		rules = append(rules, netfilter.Rule{
			In:     u.Link,
			Target: netfilter.Target{Verb: netfilter.SetConnMark, Mark: gateway.Mark{Mask: b.own.Masquerade().Mask}},
		})
	}
	b.chain(keepSourceChain, rules...)
}

// forwarded are the marks of a connection that we translate, unless its Forward says otherwise.
func (b *builder) forwarded() gateway.Mark {
	bits := b.own.Forwarded().Mask | b.own.Masquerade().Mask
	return gateway.Mark{Value: bits, Mask: bits}
}
