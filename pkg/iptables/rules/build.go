// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/iptables/ruleset"
)

// Options configures the rules.
type Options struct {
	Ownership gateway.Ownership
	// RandomFully means that MASQUERADE and SNAT support --random-fully.
	RandomFully bool
	// Sets means that the host supports sets of addresses. Without them, each source of a long list is a rule.
	Sets bool
}

// Names, without the prefix, of the chains that are independent of Forwards.
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

// Build returns the rules of one family that make the host do what the state requires. An empty state still has the fixed
// chains.
func Build(state gateway.State, family gateway.Family, opts Options) ruleset.Ruleset {
	return NewBuilder(family, opts).Build(state)
}

// builder collects the chains of one table, or of a part of one, at a time.
type builder struct {
	family gateway.Family
	opts   Options
	state  gateway.State
	// forwards holds the forwards of the family.
	forwards []*gateway.Forward
	// before is the result of the last build.
	before *memory
	*room
	// chains are the chains of the part being built, earlier are its chains in the last build.
	chains, earlier []*ruleset.Chain
	// sources are the chains that check sources and to which the part being built jumps.
	sources []*ruleset.Chain
}

func (b *builder) table(name string, fill func()) ruleset.Table {
	return ruleset.Table{Name: name, Chains: byName(b.collect(fill))}
}

// collect returns the chains that fill adds.
func (b *builder) collect(fill func()) []*ruleset.Chain {
	outer := b.chains
	b.chains = nil
	fill()
	filled := b.chains
	b.chains = outer
	return filled
}

func byName(chains []*ruleset.Chain) []*ruleset.Chain {
	slices.SortFunc(chains, func(x, y *ruleset.Chain) int { return strings.Compare(x.Name, y.Name) })
	return chains
}

// chain adds a chain of ours. If the part had an equal chain before, it reuses that one, so that a comparison is fast.
// Otherwise it copies the rules to a slice of the exact size.
func (b *builder) chain(name string, rules ...ruleset.Rule) {
	commentOnce(rules)
	name = b.name(name)
	for _, c := range b.earlier {
		if c.Name == name && slices.Equal(c.Rules, rules) {
			b.chains = append(b.chains, c)
			return
		}
	}
	kept := append(make([]ruleset.Rule, 0, len(rules)), rules...)
	b.chains = append(b.chains, &ruleset.Chain{Name: name, Rules: kept})
}

// draft returns an empty slice for the rules of a chain that is built rule by rule.
func (b *builder) draft() []ruleset.Rule {
	if n := len(b.drafts); n > 0 {
		draft := b.drafts[n-1]
		b.drafts = b.drafts[:n-1]
		return draft
	}
	return make([]ruleset.Rule, 0, 2*leafRules)
}

// done returns the slice for reuse.
func (b *builder) done(draft []ruleset.Rule) { b.drafts = append(b.drafts, draft[:0]) }

// commentOnce removes comments that repeat the one of the rule above. In the legacy back end, a comment takes as much memory as
// the rest of the rule.
func commentOnce(rules []ruleset.Rule) {
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

// hook makes a built-in chain jump to a chain of ours.
func (b *builder) hook(builtIn, chain string) {
	b.chains = append(b.chains, &ruleset.Chain{Name: builtIn, Rules: []ruleset.Rule{{Target: b.jump(chain)}}})
}

func (b *builder) name(chain string) string { return b.opts.Ownership.ChainPrefix + chain }

func (b *builder) jump(chain string) ruleset.Target {
	return ruleset.Target{Verb: ruleset.Jump, Chain: b.name(chain)}
}

func (b *builder) goTo(chain string) ruleset.Target {
	return ruleset.Target{Verb: ruleset.Goto, Chain: b.name(chain)}
}

// mangle keeps replies on the uplink by which the connection came in. It restores the mark of the packet only for replies: in
// the other direction, the mark would route packets for a backend out of the uplink.
//
// A connection has the uplink of its first packet. A UDP flow that never pauses has no other first packet, so its uplink
// follows each packet: if a router in front of the host moves the path of the flow, the replies move too. TCP and SCTP do not
// follow. They time out and connect again by the new path. If they followed, one forged segment that conntrack accepts (any
// segment, with nf_conntrack_tcp_be_liberal) would move the replies. With UDP, a sender who forges the client's address and
// port on another uplink gets the replies until the next packet of the client. If UDP did not follow, one forged packet before
// the first reply would get all replies, until the end of the flow.
//
// Replies and first packets meet two rules. Only UDP packets check their uplink again, so the number of rules for established
// TCP packets does not grow with the number of uplinks.
func (b *builder) mangle() {
	restore := ruleset.Rule{
		Direction: ruleset.Reply,
		Target:    ruleset.Target{Verb: ruleset.RestoreMark, Mark: gateway.Mark{Mask: b.opts.Ownership.UplinkMask()}},
	}
	rules := []ruleset.Rule{restore}
	if len(b.state.Uplinks) > 0 {
		rules = []ruleset.Rule{{Direction: ruleset.Original, Target: b.goTo(originalChain)}, restore}
		b.chain(originalChain, append(b.markEgress(),
			ruleset.Rule{State: ruleset.New, Target: b.goTo(uplinksChain)},
			ruleset.Rule{Protocol: gateway.UDP, Target: b.goTo(uplinksChain)},
		)...)
		b.chain(uplinksChain, b.markUplinks()...)
	}
	b.hook("PREROUTING", preroutingChain)
	b.chain(preroutingChain, rules...)
	b.hook("OUTPUT", outputChain)
	b.chain(outputChain, restore)
	if b.state.ClampMSS {
		// In POSTROUTING, because the first packet of a pod's connection is not known as ours earlier.
		b.hook("POSTROUTING", postroutingChain)
		b.chain(postroutingChain, ruleset.Rule{
			Protocol: gateway.TCP, SYN: true, ConnMark: b.opts.Ownership.Forwarded(), Target: ruleset.Target{Verb: ruleset.ClampMSS},
		})
	}
}

// markUplinks marks a connection with the uplink by which the packet comes in. A pod that leaves with an external address may
// be behind an uplink. Its replies follow the main table, not a next hop outside.
func (b *builder) markUplinks() []ruleset.Rule {
	rules := make([]ruleset.Rule, 0, len(b.state.Uplinks)+1)
	if b.leaves() && len(b.insideNetworks()) > 0 {
		rules = append(rules, ruleset.Rule{Mark: b.opts.Ownership.Egress(), Target: ruleset.Target{Verb: ruleset.Return}})
	}
	for _, u := range b.state.Uplinks {
		rules = append(rules, ruleset.Rule{
			In:     u.Link,
			Target: ruleset.Target{Verb: ruleset.SetConnMark, Mark: b.opts.Ownership.Uplink(u.Number)},
		})
	}
	return rules
}

// filter drops and rejects the packets that nat marked, and enforces the boundary. Forwarded connections pass first: they never
// carry such a mark, because refusing a connection clears its mark.
func (b *builder) filter() {
	drop := ruleset.Target{Verb: ruleset.Drop}
	input := []ruleset.Rule{{Target: b.jump(refuseChain)}}
	forward := append(append(b.acceptForwarded(), b.letSwitched()...), ruleset.Rule{Target: b.jump(refuseChain)})
	for _, u := range b.state.Uplinks {
		input = append(input, ruleset.Rule{In: u.Link, State: ruleset.Invalid, Target: drop})
		// An answer of a backend that belongs to no connection would leave with the backend's own address.
		forward = append(forward, ruleset.Rule{Out: u.Link, State: ruleset.Invalid, Target: drop})
	}
	forward = append(forward, b.acceptEgress()...)
	b.hook("FORWARD", forwardChain)
	b.chain(forwardChain, append(forward, b.guards()...)...)
	b.boundary()

	unreachable := "icmp-port-unreachable"
	if b.family == gateway.IPv6 {
		unreachable = "icmp6-port-unreachable"
	}
	b.hook("INPUT", inputChain)
	b.chain(inputChain, input...)
	b.hook("OUTPUT", outputChain)
	b.chain(outputChain, b.refuseOutput()...)
	b.chain(refuseChain,
		ruleset.Rule{Mark: b.opts.Ownership.Drop(), Target: drop},
		ruleset.Rule{Protocol: gateway.TCP, Mark: b.opts.Ownership.Reject(), Target: ruleset.Target{Verb: ruleset.Reject, RejectWith: "tcp-reset"}},
		ruleset.Rule{Mark: b.opts.Ownership.Reject(), Target: ruleset.Target{Verb: ruleset.Reject, RejectWith: unreachable}},
	)
}

// guards send packets from outside to the boundary.
func (b *builder) guards() []ruleset.Rule {
	guards := make([]ruleset.Rule, 0, len(b.state.Uplinks)+len(b.state.Outside))
	for _, u := range b.state.Uplinks {
		guards = append(guards, ruleset.Rule{In: u.Link, Target: b.goTo(boundaryChain)})
	}
	for _, link := range b.state.Outside {
		guards = append(guards, ruleset.Rule{In: link, Target: b.goTo(boundaryChain)})
	}
	if b.has(b.state.Closed) {
		// A host that forwards only for us drops packets from every link that is not known to be inside.
		for _, link := range b.state.InsideLinks {
			guards = append(guards, ruleset.Rule{In: link, Target: ruleset.Target{Verb: ruleset.Return}})
		}
		guards = append(guards, ruleset.Rule{Target: b.goTo(boundaryChain)})
	}
	return guards
}

// letSwitched ignores packets that a bridge switches without routing. They meet netfilter only if another program enabled
// br_netfilter.
func (b *builder) letSwitched() []ruleset.Rule {
	if !b.has(b.state.Switched) {
		return nil
	}
	return []ruleset.Rule{{Bridged: true, Target: ruleset.Target{Verb: ruleset.Return}}}
}

func (b *builder) has(families gateway.Families) bool {
	return b.family == gateway.IPv4 && families.IPv4 || b.family == gateway.IPv6 && families.IPv6
}

func (b *builder) boundary() {
	back := ruleset.Target{Verb: ruleset.Return}
	rules := []ruleset.Rule{
		// Published by another program on this host, whose own rules decide.
		{State: ruleset.DNAT, Target: back},
		// Opened from inside.
		{State: ruleset.Related | ruleset.Established, Direction: ruleset.Reply, Target: back},
	}
	for _, network := range b.insideNetworks() {
		rules = append(rules, ruleset.Rule{Source: network, Target: back})
	}
	b.chain(boundaryChain, append(rules, ruleset.Rule{Target: ruleset.Target{Verb: ruleset.Drop}})...)
}

// acceptForwarded lets both directions of forwarded connections pass. A packet of the client never leaves by an uplink, even if
// its backend is routed there: otherwise the host would be an open proxy. A packet of a pod that leaves with an external
// address may leave, and so may a connection that a helper expects, such as the data connection of active FTP, which the
// backend opens. Replies carry most bytes, so they meet only one rule.
func (b *builder) acceptForwarded() []ruleset.Rule {
	ours, accept := b.opts.Ownership.Forwarded(), ruleset.Target{Verb: ruleset.Accept}
	links := b.leavingLinks()
	if len(links) == 0 {
		return []ruleset.Rule{{ConnMark: ours, Target: accept}}
	}
	rules := []ruleset.Rule{{ConnMark: ours, Direction: ruleset.Reply, Target: accept}}
	for _, link := range links {
		rules = append(rules, ruleset.Rule{Out: link, ConnMark: ours, Target: b.goTo(leavingChain)})
	}
	leaving := []ruleset.Rule{
		{Mark: b.opts.Ownership.Egress(), Target: accept},
		{Expected: true, Target: accept},
	}
	for _, network := range b.clusterNetworks() {
		leaving = append(leaving, ruleset.Rule{Destination: network, Target: accept})
	}
	b.chain(leavingChain, append(leaving, ruleset.Rule{Target: ruleset.Target{Verb: ruleset.Drop}})...)
	return append(rules, ruleset.Rule{ConnMark: ours, Target: accept})
}

// leavingLinks returns the links by which our connections must not leave: the uplinks or, without uplinks, the links that are
// assumed to lead outside. It does not include links that are stacked on an uplink: the cluster may be on a VLAN of the same
// card.
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

// clusterNetworks returns the networks to which a connection may leave by an uplink: a host with one link has no other way to
// the cluster.
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

// ofNetworks returns the networks of the family.
func (b *builder) ofNetworks(networks []netip.Prefix) []netip.Prefix {
	return slices.DeleteFunc(slices.Clone(networks), func(p netip.Prefix) bool { return !b.ours(p.Addr()) })
}

// refuseOutput drops and rejects packets of the host itself that nat marked. It checks only the protocols that nat marks: in
// the kernel's reports of multicast groups (IGMP, MLD), the mark has another value, because it shares its memory with
// reserved_tailroom.
func (b *builder) refuseOutput() []ruleset.Rule {
	protocols := []gateway.Protocol{gateway.TCP, gateway.UDP, gateway.SCTP}
	rules := make([]ruleset.Rule, 0, len(protocols))
	for _, p := range protocols {
		rules = append(rules, ruleset.Rule{Protocol: p, Target: b.jump(refuseChain)})
	}
	return rules
}

// fixed adds the chains of the nat table that do not depend on forwards.
func (b *builder) fixed() {
	b.hook("PREROUTING", servicesChain)
	if !b.state.ForwardedOnly {
		b.hook("OUTPUT", servicesChain)
	}
	b.hook("POSTROUTING", postroutingChain)
	masquerade := ruleset.Rule{ConnMark: b.opts.Ownership.Masquerade(), Target: b.masquerade()}
	b.chain(postroutingChain, append([]ruleset.Rule{masquerade}, b.translateEgress()...)...)
	b.chain(markDropChain, ruleset.Rule{Target: ruleset.Target{Verb: ruleset.SetMark, Mark: b.opts.Ownership.Drop()}})
	b.chain(markRejectChain, ruleset.Rule{Target: ruleset.Target{Verb: ruleset.SetMark, Mark: b.opts.Ownership.Reject()}})
	b.keepSource()
}

// masquerade returns the target that masquerades. The kernel accepts a range of source ports only together with a protocol.
func (b *builder) masquerade() ruleset.Target {
	anyPort := ruleset.Target{Verb: ruleset.Masquerade, RandomFully: b.opts.RandomFully}
	if b.state.MasqueradePorts == (gateway.PortRange{}) {
		return anyPort
	}
	inRange := anyPort
	inRange.Ports = b.state.MasqueradePorts
	var rules []ruleset.Rule
	for _, p := range []gateway.Protocol{gateway.TCP, gateway.UDP, gateway.SCTP} {
		rules = append(rules, ruleset.Rule{Protocol: p, Target: inRange})
	}
	b.chain(masqueradeChain, append(rules, ruleset.Rule{Target: anyPort})...)
	return b.goTo(masqueradeChain)
}

// services adds the chain that jumps to the trees of ports.
func (b *builder) services(trees []tree) {
	rules := b.dispatch(b.sites(trees), b.toServices)
	// The packet was not translated: no port matched, or the packet must be refused.
	rules = append(rules, ruleset.Rule{
		ConnMark: b.opts.Ownership.Forwarded(),
		Target:   ruleset.Target{Verb: ruleset.SetConnMark, Mark: gateway.Mark{Mask: b.forwarded().Mask}},
	})
	b.chain(servicesChain, rules...)
}

// keepSource keeps the source address of packets that come in by an uplink. It still masquerades packets from pods or the host
// itself: their replies would not pass through the host otherwise.
func (b *builder) keepSource() {
	rules := make([]ruleset.Rule, 0, len(b.state.Uplinks))
	for _, u := range b.state.Uplinks {
		rules = append(rules, ruleset.Rule{
			In:     u.Link,
			Target: ruleset.Target{Verb: ruleset.SetConnMark, Mark: gateway.Mark{Mask: b.opts.Ownership.Masquerade().Mask}},
		})
	}
	b.chain(keepSourceChain, rules...)
}

// forwarded returns the marks of a translated connection, unless its Forward keeps the source.
func (b *builder) forwarded() gateway.Mark {
	bits := b.opts.Ownership.Forwarded().Mask | b.opts.Ownership.Masquerade().Mask
	return gateway.Mark{Value: bits, Mask: bits}
}
