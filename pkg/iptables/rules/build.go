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
	straysChain      = "STRAYS"
	syncChain        = "SYNC"
	egressChain      = "EGRESS"
	insideChain      = "INSIDE"
	podsChain        = "PODS"
	servicesChain    = "SERVICES"
	keepSourceChain  = "KEEP-SOURCE"
	masqueradeChain  = "MASQUERADE"
	remoteChain      = "REMOTE"
	postroutingChain = "POSTROUTING"
	markDropChain    = "MARK-DROP"
	markRejectChain  = "MARK-REJECT"
)

// Build returns the rules of one family that make the host do what the state requires. An empty state still has the fixed
// chains.
func Build(state gateway.State, family gateway.Family, opts Options) ruleset.Ruleset {
	return NewBuilder(family, opts).Build(state)
}

// Builder builds the rules of one family after each change of the State, at the cost of the change. It is not safe for
// concurrent use.
type Builder struct {
	family  gateway.Family
	opts    Options
	last    cache
	buffers buffers
}

// NewBuilder returns a Builder that has built nothing.
func NewBuilder(family gateway.Family, opts Options) *Builder {
	return &Builder{family: family, opts: opts, last: cache{sources: map[string]*sharedChain{}}}
}

// Build returns the same as the function Build. The result shares unchanged parts with earlier results, and keeps references to
// the State. The caller must change neither.
func (b *Builder) Build(state gateway.State) ruleset.Ruleset {
	forwards := gateway.ForwardsOf(state.Forwards, b.family)
	b.last.compare(&state, forwards)
	run := &builder{family: b.family, opts: b.opts, state: state, forwards: forwards, last: &b.last, buffers: &b.buffers}
	rules := run.build()
	b.last.built, b.last.state, b.last.forwards = true, state, forwards
	return rules
}

// builder collects the chains of one table, or of a part of one, at a time.
type builder struct {
	family gateway.Family
	opts   Options
	state  gateway.State
	// forwards holds the forwards of the family.
	forwards []*gateway.Forward
	// last has the result of the last build.
	last *cache
	*buffers
	// chains are the chains of the part being built, earlier are its chains in the last build.
	chains, earlier []*ruleset.Chain
	// sources are the chains that check sources and to which the part being built jumps.
	sources []*ruleset.Chain
}

// build builds the tables in the order in which a packet meets them.
func (b *builder) build() ruleset.Ruleset {
	raw := b.helpers()
	mangle := b.hostTable(&b.last.mangle, "mangle", b.mangle)
	nat := b.nat()
	filter := b.hostTable(&b.last.filter, "filter", b.filter)
	return ruleset.Ruleset{
		Family: b.family,
		Tables: append([]ruleset.Table{mangle, filter, nat}, raw...),
		Sets:   b.sets(),
	}
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
	slices.SortFunc(chains, compareNames)
	return chains
}

func compareNames(x, y *ruleset.Chain) int { return strings.Compare(x.Name, y.Name) }

// chain adds a chain of ours.
func (b *builder) chain(name string, rules ...ruleset.Rule) {
	commentOnce(rules)
	b.chains = append(b.chains, b.reuseChain(b.name(name), rules))
}

// commentOnce removes comments that repeat the one of the rule above. In the legacy variant, a comment takes as much memory as
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

func (b *builder) has(families gateway.Families) bool {
	return b.family == gateway.IPv4 && families.IPv4 || b.family == gateway.IPv6 && families.IPv6
}

// inFamily reports whether an address belongs to the family that is built.
func (b *builder) inFamily(a netip.Addr) bool { return a.Is4() == (b.family == gateway.IPv4) }
