// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/netfilter"
)

// memory is what was built of what.
type memory struct {
	// built is set when anything was.
	built    bool
	forwards []*gateway.Forward
	uplinks  []gateway.Uplink
	egresses []gateway.Egress
	clampMSS bool
	// forwardedOnly is the State's.
	forwardedOnly bool

	mangle, filter netfilter.Table
	// nat are the chains of the nat table that have nothing to do with forwards, services those that lead to the trees, table
	// all of them.
	nat, services, table []netfilter.Chain
	trees                []tree
	// sources are the chains that check sources, by name.
	sources map[string][]netfilter.Rule

	// from says of each of the forwards of now which one of the forwards it was, -1 where it is none of them; run how many
	// in a row, from this one on, were in a row.
	from, run []int32
}

// compare finds the forwards of now among those that were built.
func (m *memory) compare(now []*gateway.Forward) {
	m.from, m.run = slices.Grow(m.from[:0], len(now))[:len(now)], slices.Grow(m.run[:0], len(now))[:len(now)]
	i := 0
	for j := range now {
		order := -1
		for ; i < len(m.forwards); i++ {
			if order = m.forwards[i].Compare(now[j].Frontend); order >= 0 {
				break
			}
		}
		m.from[j] = -1
		if i < len(m.forwards) && order == 0 {
			if alike(m.forwards[i], now[j]) {
				m.from[j] = int32(i)
			}
			i++
		}
	}
	for j := len(now) - 1; j >= 0; j-- {
		switch {
		case m.from[j] < 0:
			m.run[j] = 0
		case j+1 < len(now) && m.from[j+1] == m.from[j]+1:
			m.run[j] = m.run[j+1] + 1
		default:
			m.run[j] = 1
		}
	}
}

// unchanged tells whether n forwards from this one on are those that were there at before.
func (m *memory) unchanged(before, now, n int) bool {
	return int(m.from[now]) == before && int(m.run[now]) >= n
}

// all tells whether all forwards are as they were, and n are there now.
func (m *memory) all(n int) bool {
	return m.built && len(m.forwards) == n && (n == 0 || m.unchanged(0, 0, n))
}

// sameHost tells whether all else that the rules are made of is as it was.
func (m *memory) sameHost(now *memory) bool {
	return m.built && m.clampMSS == now.clampMSS && m.forwardedOnly == now.forwardedOnly &&
		slices.EqualFunc(m.uplinks, now.uplinks, func(x, y gateway.Uplink) bool { return x.Link == y.Link && x.Number == y.Number }) &&
		slices.EqualFunc(m.egresses, now.egresses, func(x, y gateway.Egress) bool {
			return x.Address == y.Address && x.Uplink == y.Uplink && x.Owner == y.Owner && same(x.Sources, y.Sources)
		})
}

// root returns the tree that was built of an address and protocol, if any.
func (m *memory) root(address netip.Addr, protocol gateway.Protocol) branch {
	i, found := slices.BinarySearchFunc(m.trees, tree{address: address, protocol: protocol}, func(x, y tree) int {
		return cmp.Or(x.address.Compare(y.address), strings.Compare(string(x.protocol), string(y.protocol)))
	})
	if !found {
		return branch{}
	}
	return m.trees[i].root
}

func sameSite(x, y tree) bool { return x.address == y.address && x.protocol == y.protocol }

// alike tells whether forwards of the same frontend are the same in all that the rules are made of.
func alike(x, y *gateway.Forward) bool {
	return x == y || x.Ports == y.Ports && x.Owner == y.Owner && x.SourcesDeny == y.SourcesDeny && x.Shift == y.Shift &&
		x.Masquerade == y.Masquerade && x.Affinity == y.Affinity && same(x.Backends, y.Backends) && same(x.Sources, y.Sources)
}
