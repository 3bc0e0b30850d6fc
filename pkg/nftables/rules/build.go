// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/nftables/ruleset"
)

// Names of the chains and sets that are independent of Forwards. None is a keyword of nft(8), which could not read its own listing
// otherwise.
const (
	preroutingMangle  = "prerouting-mangle"
	outputMangle      = "output-mangle"
	postroutingMangle = "postrouting-mangle"
	preroutingNAT     = "prerouting-nat"
	outputNAT         = "output-nat"
	postroutingNAT    = "postrouting-nat"
	forwardFilter     = "forward"
	inputFilter       = "input"
	guardFilter       = "guard"
	markSwitched      = "mark-switched"
	unmarkSwitched    = "unmark-switched"

	originalChain   = "original"
	uplinksChain    = "uplinks"
	egressChain     = "egress"
	openedChain     = "egress-opened"
	egressSNAT      = "egress-snat"
	egressAccept    = "egress-accept"
	leavingChain    = "leaving"
	boundaryChain   = "boundary"
	guardBoundary   = "guard-boundary"
	masqueradeChain = "masquerade-source"
	masqueradeTo    = "masquerade-to"
	dropChain       = "drop-client"
	rejectChain     = "reject-client"
	flowChain       = "established"
	syncChain       = "sync"
	egressFlow      = "established-egress"
	addFlow         = "add-flow"
	replyMark       = "mark-as-reply"

	frontendsMap   = "frontends"
	rangesMap      = "ranges"
	movingMap      = "moving-ranges"
	chainsMap      = "chains"
	backendsMap    = "backends"
	uplinksMap     = "uplinks"
	repliesMap     = "replies"
	podsMap        = "egress-pods"
	egressMap      = "egress-addresses"
	uplinkLinksSet = "uplink-links"
	leavingLinks   = "leaving-links"
	outsideLinks   = "outside-links"
	insideLinks    = "inside-links"
	insideNetworks = "inside-networks"
	// masqueradeLinks leads to the chain for the addresses of a link, masqueradeMap to these addresses by their number.
	// masqueradeSet has all of them.
	masqueradeLinks = "masquerade-links"
	masqueradeMap   = "masquerade-addresses"
	masqueradeSet   = "masquerade-sources"
	// localSet has the pods of this node.
	localSet = "local-backends"
	// syncSet has the sync address of a pair with its port, syncLinks the links by which packets for it may come.
	syncSet        = "sync-endpoint"
	syncLinks      = "sync-links"
	clusterNetsSet = "cluster-networks"
	droppedSet     = "dropped"
	rejectedSet    = "rejected"
)

// Build returns the table of one family that makes the host do what the state requires. An empty state still has the fixed
// chains.
func Build(state gateway.State, family gateway.Family, own gateway.Ownership) ruleset.Table {
	parts := NewParts(family, own)
	parts.AddAll(gateway.ForwardsOf(state.Forwards, family))
	table := Host(state, family, own, parts.ranges > 0)
	parts.addTo(&table)
	return sorted(table)
}

// Host returns the part of the table that does not depend on Forwards, except for the helpers of their ports. ranges means that
// the map of port ranges has elements.
func Host(state gateway.State, family gateway.Family, own gateway.Ownership, ranges bool) ruleset.Table {
	b := &builder{family: family, own: own, state: state, ranges: ranges}
	b.table.Family = family
	b.forwardMaps()
	b.mangle()
	b.nat()
	b.filter()
	b.flowtable()
	b.bridge()
	return sorted(b.table)
}

// Guard returns a table that enforces the boundary and nothing else, for a host whose Mappings are not known yet and for a
// family that is not served. Its chains and sets are none of those that Build returns, except for those of Bridge.
func Guard(state gateway.State, family gateway.Family, own gateway.Ownership) ruleset.Table {
	b := &builder{family: family, own: own, state: state, prefix: "guard-"}
	b.table.Family = family
	b.guard()
	b.bridge()
	return sorted(b.table)
}

// IsGuard reports whether a chain or set is one that Guard returns.
func IsGuard(name string) bool { return name == guardFilter || strings.HasPrefix(name, "guard-") }

func sorted(t ruleset.Table) ruleset.Table {
	slices.SortFunc(t.Chains, func(x, y ruleset.Chain) int { return strings.Compare(x.Name, y.Name) })
	slices.SortFunc(t.Sets, func(x, y ruleset.Set) int { return strings.Compare(x.Name, y.Name) })
	for i := range t.Sets {
		slices.SortFunc(t.Sets[i].Elements, ruleset.CompareElements)
	}
	return t
}

// builder collects chains and sets.
type builder struct {
	family gateway.Family
	own    gateway.Ownership
	state  gateway.State
	ranges bool
	// prefix begins the names of sets.
	prefix string
	table  ruleset.Table
}

// base adds a base chain.
func (b *builder) base(name string, hook ruleset.Hook, rules ...ruleset.Rule) {
	b.table.Chains = append(b.table.Chains, ruleset.Chain{Name: name, Hook: &hook, Rules: rules})
}

// chain adds another chain.
func (b *builder) chain(name string, rules ...ruleset.Rule) {
	b.table.Chains = append(b.table.Chains, ruleset.Chain{Name: name, Rules: rules})
}

func (b *builder) set(name string, schema ruleset.Schema, elements ...ruleset.Element) {
	b.table.Sets = append(b.table.Sets, ruleset.Set{Name: name, Schema: schema, Elements: elements})
}

// linkSet adds a set of links, unless there are none, and returns its name.
func (b *builder) linkSet(name string, links []string) {
	elements := make([]ruleset.Element, 0, len(links))
	for _, link := range links {
		elements = append(elements, ruleset.Element{Key: linkKey(link)})
	}
	b.set(b.prefix+name, ruleset.Schema{Key: key(ruleset.LinkType)}, elements...)
}

// networkSet adds a set of networks.
func (b *builder) networkSet(name string, networks []netip.Prefix) {
	b.set(b.prefix+name, networkSchema(b.family), networkElements(networks)...)
}

func (b *builder) has(families gateway.Families) bool {
	return b.family == gateway.IPv4 && families.IPv4 || b.family == gateway.IPv6 && families.IPv6
}

func (b *builder) inFamily(a netip.Addr) bool { return a.Is4() == (b.family == gateway.IPv4) }

func (b *builder) insideNetworks() []netip.Prefix {
	return gateway.NetworksOf(b.state.InsideNetworks, b.family)
}

func (b *builder) uplinkLinks() []string {
	links := make([]string, 0, len(b.state.Uplinks))
	for _, u := range b.state.Uplinks {
		links = append(links, u.Link)
	}
	return links
}

// Parts collects what Forwards add to the table.
type Parts struct {
	family gateway.Family
	own    gateway.Ownership
	// ranges counts the elements of the map of ranges.
	ranges int
	// units are the Units by name, uses counts the Forwards that need them.
	units    map[string]Unit
	uses     map[string]int
	elements map[string][]ruleset.Element
}

// NewParts returns Parts without Forwards.
func NewParts(family gateway.Family, own gateway.Ownership) *Parts {
	return &Parts{family: family, own: own, units: map[string]Unit{}, uses: map[string]int{}, elements: map[string][]ruleset.Element{}}
}

// AddAll adds Forwards.
func (p *Parts) AddAll(forwards []*gateway.Forward) {
	backends := 0
	for _, f := range forwards {
		backends += len(f.Backends)
	}
	p.elements[frontendsMap] = slices.Grow(p.elements[frontendsMap], len(forwards))
	p.elements[backendsMap] = slices.Grow(p.elements[backendsMap], backends)
	for _, f := range forwards {
		p.add(f)
	}
}

func (p *Parts) add(f *gateway.Forward) {
	known := func(unit string) bool { _, found := p.units[unit]; return found }
	c := Contribute(f, p.own, known)
	for _, u := range c.Units {
		p.uses[u.Name]++
		if known(u.Name) {
			continue
		}
		p.units[u.Name] = u
		for _, e := range u.Elements {
			p.elements[e.Set] = append(p.elements[e.Set], e.Element)
		}
	}
	for _, e := range c.Elements {
		if e.Set == rangesMap {
			p.ranges++
		}
		p.elements[e.Set] = append(p.elements[e.Set], e.Element)
	}
}

func (p *Parts) addTo(t *ruleset.Table) {
	for _, name := range slices.Sorted(maps.Keys(p.units)) {
		t.Chains = append(t.Chains, p.units[name].Chains...)
		t.Sets = append(t.Sets, p.units[name].Sets...)
	}
	for i := range t.Sets {
		set := &t.Sets[i]
		if elements := p.elements[set.Name]; len(set.Elements) > 0 {
			set.Elements = append(set.Elements, elements...)
		} else if len(elements) > 0 {
			set.Elements = elements
		}
	}
}
