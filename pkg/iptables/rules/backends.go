// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math"
	"net/netip"
	"slices"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/iptables/ruleset"
)

// groupSize is the number of backends that are tried one after the other. More backends form groups of up to this size.
const groupSize = 32

// backends appends the rules that select a backend and translate: first the rules for clients that must get their last backend
// again, then the rules that distribute evenly.
func (b *builder) backends(rules []ruleset.Rule, f *gateway.Forward) []ruleset.Rule {
	start := len(rules)
	if sticky(f) {
		seconds := uint32(math.Ceil(f.Affinity.Seconds()))
		for _, backend := range f.Backends {
			r := portRule(f, destination(f, backend))
			r.Recent = ruleset.Recent{Name: clientsOf(b.opts.Ownership.ChainPrefix, f, backend), Seconds: seconds}
			rules = append(rules, r)
		}
	}
	if len(f.Backends) > groupSize {
		rules = b.groups(rules, f)
	} else {
		rules = b.share(rules, f, f.Ports, f.Backends)
	}
	for i := start + 1; i < len(rules); i++ {
		rules[i].Comment = ""
	}
	return rules
}

// sticky reports whether clients return to their last backend.
func sticky(f *gateway.Forward) bool { return f.Affinity > 0 && len(f.Backends) > 1 }

// clientsOf names the client list of an endpoint. All ports, protocols and external addresses of the Service share it, for two
// reasons: all connections of a client reach the same pod, and the kernel, which searches the lists for each rule that names
// one, has few of them. The name includes the port only if endpoints of the Forward share an address.
func clientsOf(prefix string, f *gateway.Forward, backend gateway.Backend) string {
	name := fmt.Sprintf("%s%s-%s", prefix, digest([]byte(f.Service), 10), backend.Address)
	first, _ := slices.BinarySearchFunc(f.Backends, backend.Address, func(b gateway.Backend, a netip.Addr) int { return b.Address.Compare(a) })
	if next := first + 1; next < len(f.Backends) && f.Backends[next].Address == backend.Address {
		return fmt.Sprintf("%s-%d", name, backend.Port)
	}
	return name
}

// share appends rules that distribute evenly among some backends: each takes its share of the packets that the rules before it
// did not match.
func (b *builder) share(rules []ruleset.Rule, f *gateway.Forward, ports gateway.PortRange, backends []gateway.Backend) []ruleset.Rule {
	for i, backend := range backends {
		r := portRule(f, destination(f, backend))
		r.DestinationPorts = ports
		r.Probability = probability(1, len(backends)-i)
		if sticky(f) {
			r.Recent.Name = clientsOf(b.opts.Ownership.ChainPrefix, f, backend)
		}
		rules = append(rules, r)
	}
	return rules
}

// probability returns the probability of selecting some of the backends that are left, or 0 for all of them, which need no
// probability.
func probability(some, left int) uint32 {
	if some == left {
		return 0
	}
	return uint32(math.Round(ruleset.ProbabilityOne * float64(some) / float64(left)))
}

// groups appends rules that distribute among groups by their size. The group of a backend depends on its digest and on the
// number of backends with similar digests. Adding or removing a backend therefore changes only its group, the group that splits
// from it or merges with it, and the chain that jumps to them. The largest groups come first, which evens out the number of
// rules until the last backend.
func (b *builder) groups(rules []ruleset.Rule, f *gateway.Forward) []ruleset.Rule {
	groups := split(allDigests, members(f.Backends))
	slices.SortStableFunc(groups, func(x, y group) int { return cmp.Compare(len(y.backends), len(x.backends)) })
	left := len(f.Backends)
	for _, g := range groups {
		chain := groupChain(f.Frontend, g.start)
		share := b.share(b.draft(), f, gateway.PortRange{}, g.backends)
		b.chain(chain, share...)
		b.release(share)
		r := portRule(f, b.goTo(chain))
		r.Probability = probability(len(g.backends), left)
		rules = append(rules, r)
		left -= len(g.backends)
	}
	return rules
}

// member is a backend and its digest.
type member struct {
	gateway.Backend
	digest uint32
}

var allDigests = block{bits: 20}

// members returns backends sorted by their digest.
func members(backends []gateway.Backend) []member {
	list := make([]member, len(backends))
	for i, backend := range backends {
		sum := sha256.Sum256([]byte(netip.AddrPortFrom(backend.Address, backend.Port).String()))
		list[i] = member{backend, binary.BigEndian.Uint32(sum[:]) >> (32 - allDigests.bits)}
	}
	slices.SortStableFunc(list, func(x, y member) int { return cmp.Compare(x.digest, y.digest) })
	return list
}

// group is the backends of one chain. The chain is named after the start of the group.
type group struct {
	start    uint32
	backends []gateway.Backend
}

// split halves a block of digests until each part is small enough. The lower half starts where the whole block does, and so
// keeps its chain.
func split(k block, list []member) []group {
	switch {
	case len(list) == 0:
		return nil
	case len(list) > groupSize && k.bits > 0:
		low, high := k.halves()
		middle, _ := slices.BinarySearchFunc(list, high.start, func(m member, start uint32) int { return cmp.Compare(m.digest, start) })
		return append(split(low, list[:middle]), split(high, list[middle:])...)
	}
	g := group{start: k.start}
	for _, m := range list {
		g.backends = append(g.backends, m.Backend)
	}
	return []group{g}
}

// destination returns the target for a backend's share of the forward.
func destination(f *gateway.Forward, backend gateway.Backend) ruleset.Target {
	t := ruleset.Target{Verb: ruleset.DNAT, Address: backend.Address, Ports: gateway.Port(backend.Port)}
	if !f.Shift || f.Ports.Single() {
		return t
	}
	if backend.Port == f.Ports.First {
		t.Ports = gateway.PortRange{}
		return t
	}
	t.Ports.Last = backend.Port + f.Ports.Last - f.Ports.First
	t.BasePort = f.Ports.First
	return t
}
