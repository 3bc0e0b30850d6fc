// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"net/netip"
	"slices"
	"strings"

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
	originalChain    = "ORIGINAL"
	uplinksChain     = "UPLINKS"
	forwardChain     = "FORWARD"
	leavingChain     = "LEAVING"
	boundaryChain    = "BOUNDARY"
	refuseChain      = "REFUSE"
	inputChain       = "INPUT"
	egressChain      = "EGRESS"
	insideChain      = "INSIDE"
	podsChain        = "PODS"
	servicesChain    = "SERVICES"
	keepSourceChain  = "KEEP-SOURCE"
	masqueradeChain  = "MASQUERADE"
	postroutingChain = "POSTROUTING"
	markDropChain    = "MARK-DROP"
	markRejectChain  = "MARK-REJECT"
)

// Build returns the rules of one family that make the host do what the state asks for. A state that asks for nothing still
// has the fixed chains.
func Build(state gateway.State, family netfilter.Family, opts Options) netfilter.Ruleset {
	return NewBuilder(family, opts).Build(state)
}

// builder collects chains, those of one table, or of a part of it, at a time.
type builder struct {
	family netfilter.Family
	opts   Options
	state  gateway.State
	// forwards are those of the family.
	forwards []*gateway.Forward
	// before is what was built last.
	before *memory
	*room
	// chains are those of the part being built, earlier those that it had.
	chains, earlier []*netfilter.Chain
	// sources are the chains that check sources and that the part being built leads to.
	sources []*netfilter.Chain
}

func (b *builder) table(name string, fill func()) netfilter.Table {
	return netfilter.Table{Name: name, Chains: byName(b.collect(fill))}
}

// collect returns the chains that fill adds.
func (b *builder) collect(fill func()) []*netfilter.Chain {
	outer := b.chains
	b.chains = nil
	fill()
	filled := b.chains
	b.chains = outer
	return filled
}

func byName(chains []*netfilter.Chain) []*netfilter.Chain {
	slices.SortFunc(chains, func(x, y *netfilter.Chain) int { return strings.Compare(x.Name, y.Name) })
	return chains
}

// chain adds a chain of ours. Where the part had the same before it is that one, so that who compares sees it at once;
// otherwise it keeps a copy of the rules that is no larger than it has to be.
func (b *builder) chain(name string, rules ...netfilter.Rule) {
	commentOnce(rules)
	name = b.name(name)
	for _, c := range b.earlier {
		if c.Name == name && slices.Equal(c.Rules, rules) {
			b.chains = append(b.chains, c)
			return
		}
	}
	kept := append(make([]netfilter.Rule, 0, len(rules)), rules...)
	b.chains = append(b.chains, &netfilter.Chain{Name: name, Rules: kept})
}

// draft lends room for the rules of a chain that are put together one by one.
func (b *builder) draft() []netfilter.Rule {
	if n := len(b.drafts); n > 0 {
		draft := b.drafts[n-1]
		b.drafts = b.drafts[:n-1]
		return draft
	}
	return make([]netfilter.Rule, 0, 2*leafRules)
}

// done takes the room back.
func (b *builder) done(draft []netfilter.Rule) { b.drafts = append(b.drafts, draft[:0]) }

// commentOnce leaves out what the rule above says already: a comment takes the legacy back end as much room as the rest of
// the rule.
func commentOnce(rules []netfilter.Rule) {
	last := ""
	for i := range rules {
		switch comment := rules[i].Comment; comment {
		case "":
		case last:
			rules[i].Comment = ""
		default:
			last = comment
		}
	}
}

// hook leads a built-in chain to a chain of ours.
func (b *builder) hook(builtIn, chain string) {
	b.chains = append(b.chains, &netfilter.Chain{Name: builtIn, Rules: []netfilter.Rule{{Target: b.jump(chain)}}})
}

func (b *builder) name(chain string) string { return b.opts.Ownership.ChainPrefix + chain }

func (b *builder) jump(chain string) netfilter.Target {
	return netfilter.Target{Verb: netfilter.Jump, Chain: b.name(chain)}
}

func (b *builder) goTo(chain string) netfilter.Target {
	return netfilter.Target{Verb: netfilter.Goto, Chain: b.name(chain)}
}

// mangle keeps replies on the uplink that the connection comes in by. The packet's mark is restored for replies alone: in
// the other direction it would lead packets for a backend out of the uplink.
//
// A connection has the uplink of its first packet. Flows of UDP that never pause never have another first packet, so the
// uplink follows each of their packets: when a router in front of the host moves their path, so do the replies. TCP and SCTP
// do not follow. They time out and connect again by the new path, and otherwise one forged segment that conntrack takes for
// valid (any, with nf_conntrack_tcp_be_liberal) would lead the replies elsewhere. With UDP, a sender who forges the client's
// address, port and uplink gets the replies until the client's next packet. Before, one forged packet ahead of
// the first reply got him all replies, to the end of the flow.
//
// Replies meet two rules, as do first packets. Only UDP is asked for its uplink again, so that established packets of TCP meet
// as few rules with many uplinks as with one.
func (b *builder) mangle() {
	restore := netfilter.Rule{
		Direction: netfilter.Reply,
		Target:    netfilter.Target{Verb: netfilter.RestoreMark, Mark: gateway.Mark{Mask: b.opts.Ownership.UplinkMask()}},
	}
	rules := []netfilter.Rule{restore}
	if len(b.state.Uplinks) > 0 {
		rules = []netfilter.Rule{{Direction: netfilter.Original, Target: b.goTo(originalChain)}, restore}
		b.chain(originalChain, append(b.markEgress(),
			netfilter.Rule{State: netfilter.New, Target: b.goTo(uplinksChain)},
			netfilter.Rule{Protocol: gateway.UDP, Target: b.goTo(uplinksChain)},
		)...)
		b.chain(uplinksChain, b.markUplinks()...)
	}
	b.hook("PREROUTING", preroutingChain)
	b.chain(preroutingChain, rules...)
	b.hook("OUTPUT", outputChain)
	b.chain(outputChain, restore)
	if b.state.ClampMSS {
		// Not before POSTROUTING is the first packet of a pod's connection known to be ours.
		b.hook("POSTROUTING", postroutingChain)
		b.chain(postroutingChain, netfilter.Rule{
			Protocol: gateway.TCP, SYN: true, ConnMark: b.opts.Ownership.Forwarded(), Target: netfilter.Target{Verb: netfilter.ClampMSS},
		})
	}
}

// markUplinks marks a connection with the uplink that the packet comes in by. A pod that leaves with an external address may be
// behind an uplink, and is answered as the main table says, not by a next hop outside.
func (b *builder) markUplinks() []netfilter.Rule {
	rules := make([]netfilter.Rule, 0, len(b.state.Uplinks)+1)
	if b.leaves() && len(b.insideNetworks()) > 0 {
		rules = append(rules, netfilter.Rule{Mark: b.opts.Ownership.Egress(), Target: netfilter.Target{Verb: netfilter.Return}})
	}
	for _, u := range b.state.Uplinks {
		rules = append(rules, netfilter.Rule{
			In:     u.Link,
			Target: netfilter.Target{Verb: netfilter.SetConnMark, Mark: b.opts.Ownership.Uplink(u.Number)},
		})
	}
	return rules
}

// filter refuses what nat marked, and holds the boundary. A forwarded connection passes first: it is never marked to be
// refused, as that clears its mark.
func (b *builder) filter() {
	drop := netfilter.Target{Verb: netfilter.Drop}
	input := []netfilter.Rule{{Target: b.jump(refuseChain)}}
	forward := append(append(b.acceptForwarded(), b.letSwitched()...), netfilter.Rule{Target: b.jump(refuseChain)})
	for _, u := range b.state.Uplinks {
		input = append(input, netfilter.Rule{In: u.Link, State: netfilter.Invalid, Target: drop})
		// An answer of a backend that belongs to no connection would leave with the backend's own address.
		forward = append(forward, netfilter.Rule{Out: u.Link, State: netfilter.Invalid, Target: drop})
	}
	forward = append(forward, b.acceptEgress()...)
	b.hook("FORWARD", forwardChain)
	b.chain(forwardChain, append(forward, b.guards()...)...)
	b.boundary()

	unreachable := "icmp-port-unreachable"
	if b.family == netfilter.IPv6 {
		unreachable = "icmp6-port-unreachable"
	}
	b.hook("INPUT", inputChain)
	b.chain(inputChain, input...)
	b.hook("OUTPUT", outputChain)
	b.chain(outputChain, b.refuseOutput()...)
	b.chain(refuseChain,
		netfilter.Rule{Mark: b.opts.Ownership.Drop(), Target: drop},
		netfilter.Rule{Protocol: gateway.TCP, Mark: b.opts.Ownership.Reject(), Target: netfilter.Target{Verb: netfilter.Reject, RejectWith: "tcp-reset"}},
		netfilter.Rule{Mark: b.opts.Ownership.Reject(), Target: netfilter.Target{Verb: netfilter.Reject, RejectWith: unreachable}},
	)
}

// guards lead what comes in from the outside to the boundary.
func (b *builder) guards() []netfilter.Rule {
	guards := make([]netfilter.Rule, 0, len(b.state.Uplinks)+len(b.state.Outside))
	for _, u := range b.state.Uplinks {
		guards = append(guards, netfilter.Rule{In: u.Link, Target: b.goTo(boundaryChain)})
	}
	for _, link := range b.state.Outside {
		guards = append(guards, netfilter.Rule{In: link, Target: b.goTo(boundaryChain)})
	}
	if b.has(b.state.Closed) {
		// A host that forwards for us alone forwards nothing on a link that is not known to be inside.
		for _, link := range b.state.InsideLinks {
			guards = append(guards, netfilter.Rule{In: link, Target: netfilter.Target{Verb: netfilter.Return}})
		}
		guards = append(guards, netfilter.Rule{Target: b.goTo(boundaryChain)})
	}
	return guards
}

// letSwitched leaves alone what a bridge switches and the host does not route, which other programs (br_netfilter) have put
// before netfilter.
func (b *builder) letSwitched() []netfilter.Rule {
	if !b.has(b.state.Switched) {
		return nil
	}
	return []netfilter.Rule{{Bridged: true, Target: netfilter.Target{Verb: netfilter.Return}}}
}

func (b *builder) has(families gateway.Families) bool {
	return b.family == netfilter.IPv4 && families.IPv4 || b.family == netfilter.IPv6 && families.IPv6
}

func (b *builder) boundary() {
	back := netfilter.Target{Verb: netfilter.Return}
	rules := []netfilter.Rule{
		// Published by another program on this host: the host's own rules decide.
		{State: netfilter.DNAT, Target: back},
		// Opened from inside.
		{State: netfilter.Related | netfilter.Established, Direction: netfilter.Reply, Target: back},
	}
	for _, network := range b.insideNetworks() {
		rules = append(rules, netfilter.Rule{Source: network, Target: back})
	}
	b.chain(boundaryChain, append(rules, netfilter.Rule{Target: netfilter.Target{Verb: netfilter.Drop}})...)
}

// acceptForwarded lets both directions of forwarded connections pass. What the client sends never leaves by an uplink,
// wherever its backend is routed: a gateway leads inside, or it would be an open proxy. What a pod sends that leaves
// with an external address does, and so does a connection that a helper announced, such as the data of active FTP, which
// the backend opens. Replies meet one rule: most bytes are theirs.
func (b *builder) acceptForwarded() []netfilter.Rule {
	ours, accept := b.opts.Ownership.Forwarded(), netfilter.Target{Verb: netfilter.Accept}
	links := b.leavingLinks()
	if len(links) == 0 {
		return []netfilter.Rule{{ConnMark: ours, Target: accept}}
	}
	rules := []netfilter.Rule{{ConnMark: ours, Direction: netfilter.Reply, Target: accept}}
	for _, link := range links {
		rules = append(rules, netfilter.Rule{Out: link, ConnMark: ours, Target: b.goTo(leavingChain)})
	}
	leaving := []netfilter.Rule{
		{Mark: b.opts.Ownership.Egress(), Target: accept},
		{Expected: true, Target: accept},
	}
	for _, network := range b.clusterNetworks() {
		leaving = append(leaving, netfilter.Rule{Destination: network, Target: accept})
	}
	b.chain(leavingChain, append(leaving, netfilter.Rule{Target: netfilter.Target{Verb: netfilter.Drop}})...)
	return append(rules, netfilter.Rule{ConnMark: ours, Target: accept})
}

// leavingLinks are the links that connections of ours do not leave by: the uplinks, or without any, those that are taken to lead
// to the outside. What is stacked on an uplink is none of them: the cluster may be on a VLAN of the same card.
func (b *builder) leavingLinks() []string {
	links := make([]string, 0, len(b.state.Uplinks))
	for _, u := range b.state.Uplinks {
		links = append(links, u.Link)
	}
	if len(links) == 0 {
		return b.state.Outside
	}
	return links
}

// clusterNetworks are where a connection may be led by an uplink: a host with one link has no other way to the cluster.
func (b *builder) clusterNetworks() []netip.Prefix {
	networks := append(b.insideNetworks(), b.ofNetworks(b.state.BackendNetworks)...)
	for _, r := range b.state.ServiceRoutes {
		if b.ours(r.Destination.Addr()) {
			networks = append(networks, r.Destination)
		}
	}
	slices.SortFunc(networks, netip.Prefix.Compare)
	return slices.Compact(networks)
}

func (b *builder) insideNetworks() []netip.Prefix { return b.ofNetworks(b.state.InsideNetworks) }

// ofNetworks returns those of the family.
func (b *builder) ofNetworks(networks []netip.Prefix) []netip.Prefix {
	return slices.DeleteFunc(slices.Clone(networks), func(p netip.Prefix) bool { return !b.ours(p.Addr()) })
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

// fixed adds what of the nat table has nothing to do with forwards. It translates.
func (b *builder) fixed() {
	b.hook("PREROUTING", servicesChain)
	if !b.state.ForwardedOnly {
		b.hook("OUTPUT", servicesChain)
	}
	b.hook("POSTROUTING", postroutingChain)
	masquerade := netfilter.Rule{ConnMark: b.opts.Ownership.Masquerade(), Target: b.masquerade()}
	b.chain(postroutingChain, append([]netfilter.Rule{masquerade}, b.translateEgress()...)...)
	b.chain(markDropChain, netfilter.Rule{Target: netfilter.Target{Verb: netfilter.SetMark, Mark: b.opts.Ownership.Drop()}})
	b.chain(markRejectChain, netfilter.Rule{Target: netfilter.Target{Verb: netfilter.SetMark, Mark: b.opts.Ownership.Reject()}})
	b.keepSource()
}

// masquerade returns what masquerades. The kernel takes a range of source ports for one protocol at a time.
func (b *builder) masquerade() netfilter.Target {
	anyPort := netfilter.Target{Verb: netfilter.Masquerade, RandomFully: b.opts.RandomFully}
	if b.state.MasqueradePorts == (gateway.PortRange{}) {
		return anyPort
	}
	inRange := anyPort
	inRange.Ports = b.state.MasqueradePorts
	var rules []netfilter.Rule
	for _, p := range []gateway.Protocol{gateway.TCP, gateway.UDP, gateway.SCTP} {
		rules = append(rules, netfilter.Rule{Protocol: p, Target: inRange})
	}
	b.chain(masqueradeChain, append(rules, netfilter.Rule{Target: anyPort})...)
	return b.goTo(masqueradeChain)
}

// services leads to the trees of ports.
func (b *builder) services(trees []tree) {
	rules := b.dispatch(b.sites(trees), b.toServices)
	// Nothing was translated: no port matched, or the packet is to be refused.
	rules = append(rules, netfilter.Rule{
		ConnMark: b.opts.Ownership.Forwarded(),
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
			Target: netfilter.Target{Verb: netfilter.SetConnMark, Mark: gateway.Mark{Mask: b.opts.Ownership.Masquerade().Mask}},
		})
	}
	b.chain(keepSourceChain, rules...)
}

// forwarded are the marks of a connection that we translate, unless its Forward says otherwise.
func (b *builder) forwarded() gateway.Mark {
	bits := b.opts.Ownership.Forwarded().Mask | b.opts.Ownership.Masquerade().Mask
	return gateway.Mark{Value: bits, Mask: bits}
}
