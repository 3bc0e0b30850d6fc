// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/iptables/ruleset"
)

// memory holds the last result and its input.
type memory struct {
	// built means that there is a last result.
	built    bool
	forwards []*gateway.Forward
	uplinks  []gateway.Uplink
	egresses []gateway.Egress
	// routes, inside, behind (BackendNetworks) and outside are from the State.
	routes           []gateway.ServiceRoute
	inside, behind   []netip.Prefix
	outside          []string
	closed, switched gateway.Families
	insideLinks      []string
	clampMSS         bool
	// forwardedOnly is from the State.
	forwardedOnly bool
	// masqueradePorts are from the State.
	masqueradePorts gateway.PortRange

	mangle, filter ruleset.Table
	// nat holds the chains of the nat table that do not depend on forwards, services those that jump to the trees, and table all
	// of them.
	nat, services, table []*ruleset.Chain
	trees                []tree
	// sources are the chains that check sources, by name.
	sources map[string]*shared
	// crowded holds the indexes of the forwards whose sources are in a set. sets are the sets that they name.
	crowded []int
	sets    []ruleset.Set
}

// span is a run of n forwards that did not change, from index before in the last list and from index now in this one.
type span struct{ before, now, n int }

// spans are the longest runs that two lists share, in order.
type spans []span

// compare appends the runs that two sorted lists of forwards share to an empty list. Most forwards are shared pointers, whose
// content is not read, so their number costs little.
func compare(to spans, before, now []*gateway.Forward) spans {
	i, j := 0, 0
	for i < len(before) && j < len(now) {
		n := 0
		for i+n < len(before) && j+n < len(now) && (before[i+n] == now[j+n] || alike(before[i+n], now[j+n])) {
			n++
		}
		if n > 0 {
			to = append(to, span{i, j, n})
			i, j = i+n, j+n
			continue
		}
		order := before[i].Compare(now[j].Frontend)
		if order <= 0 {
			i++
		}
		if order >= 0 {
			j++
		}
	}
	return to
}

// hold reports whether the n forwards from index now were adjacent in the last list, too.
func (s spans) hold(now, n int) bool {
	i, found := slices.BinarySearchFunc(s, now, func(s span, now int) int { return cmp.Compare(s.now, now) })
	if !found {
		i--
	}
	return i >= 0 && now+n <= s[i].now+s[i].n
}

// all reports whether two lists of these lengths are equal.
func (s spans) all(before, now int) bool { return before == now && (now == 0 || s.hold(0, now)) }

// sameHost reports whether all input other than forwards is unchanged.
func (m *memory) sameHost(now *memory) bool {
	return m.built && m.clampMSS == now.clampMSS && m.forwardedOnly == now.forwardedOnly && m.masqueradePorts == now.masqueradePorts &&
		m.closed == now.closed && m.switched == now.switched && slices.Equal(m.insideLinks, now.insideLinks) &&
		slices.Equal(m.inside, now.inside) && slices.Equal(m.behind, now.behind) && slices.Equal(m.outside, now.outside) &&
		slices.EqualFunc(m.routes, now.routes, func(x, y gateway.ServiceRoute) bool { return x.Destination == y.Destination }) &&
		slices.EqualFunc(m.uplinks, now.uplinks, func(x, y gateway.Uplink) bool { return x.Link == y.Link && x.Number == y.Number }) &&
		slices.EqualFunc(m.egresses, now.egresses, func(x, y gateway.Egress) bool {
			return x.Address == y.Address && x.Uplink == y.Uplink && x.Owner == y.Owner && same(x.Sources, y.Sources)
		})
}

func (t tree) compare(o tree) int {
	return cmp.Or(t.address.Compare(o.address), strings.Compare(string(t.protocol), string(o.protocol)))
}

func sameSite(x, y tree) bool { return x.compare(y) == 0 }

// alike reports whether two forwards have the same rules.
func alike(x, y *gateway.Forward) bool {
	return x.Frontend == y.Frontend && x.Owner == y.Owner && x.SourcesDeny == y.SourcesDeny && x.Shift == y.Shift &&
		x.Masquerade == y.Masquerade && x.Affinity == y.Affinity && x.Service == y.Service && same(x.Backends, y.Backends) && same(x.Sources, y.Sources)
}
