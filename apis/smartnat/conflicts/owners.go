// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package conflicts

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
)

// MaxConflicts bounds the Conflicts that are listed per requested range and per Mapping; the rest is only counted. A range
// may lose every second port, and a list of 30,000 names helps no reader.
const MaxConflicts = 16

// Owners records the owner of each port: the first Mapping that takes it.
type Owners map[claimKey]*taken

type claimKey struct {
	address  netip.Addr
	protocol v1alpha1.Protocol
}

// taken holds the taken ports of one address and protocol.
type taken struct {
	single map[uint16]*v1alpha1.Mapping
	// ranges are sorted, disjoint and hold no single ports.
	ranges []claim
}

type claim struct {
	first, last uint16
	owner       *v1alpha1.Mapping
}

// Allocation is the part of the requested ports that a Mapping gets.
type Allocation struct {
	// Lost lists the first MaxConflicts runs of ports that other Mappings own, sorted; empty if the Mapping gets all
	// ports.
	Lost []Conflict
	// More is the number of further runs.
	More int
	// Free lists the ports that the Mapping gets, sorted, if it does not get all.
	Free []Ports
}

// Whole reports whether the Mapping gets all requested ports.
func (a Allocation) Whole() bool { return len(a.Lost) == 0 }

// size returns the number of ports that the Mapping gets of wanted.
func (a Allocation) size(wanted Ports) int {
	if a.Whole() {
		return wanted.Size()
	}
	n := 0
	for _, p := range a.Free {
		n += p.Size()
	}
	return n
}

// Take assigns the free ports of wanted to m.
func (o Owners) Take(wanted Ports, m *v1alpha1.Mapping) Allocation {
	key := claimKey{wanted.Address, wanted.Protocol}
	t := o[key]
	if t == nil {
		t = &taken{single: map[uint16]*v1alpha1.Mapping{}}
		o[key] = t
	}
	from, to, others := t.overlapping(wanted.First, wanted.Last)
	if len(others) == 0 {
		t.insert(from, to, claim{wanted.First, wanted.Last, m})
		return Allocation{}
	}
	var share Allocation
	var mine []claim
	lose := func(run claim) {
		if len(share.Lost) == MaxConflicts {
			share.More++
			return
		}
		share.Lost = append(share.Lost, Conflict{wanted.part(run.first, run.last), run.owner})
	}
	next, run := int(wanted.First), others[0]
	for i, o := range others {
		if int(o.first) > next {
			mine = append(mine, claim{uint16(next), o.first - 1, m})
		}
		next = int(o.last) + 1
		switch {
		case i == 0:
		case o.owner == run.owner && int(o.first) == int(run.last)+1:
			run.last = o.last
		default:
			lose(run)
			run = o
		}
	}
	lose(run)
	if next <= int(wanted.Last) {
		mine = append(mine, claim{uint16(next), wanted.Last, m})
	}
	for _, part := range mine {
		share.Free = append(share.Free, wanted.part(part.first, part.last))
	}
	t.insert(from, to, mine...)
	return share
}

// part returns a sub-range.
func (p Ports) part(first, last uint16) Ports {
	p.First, p.Last = first, last
	return p
}

// overlapping returns the taken parts of a range, sorted and cut to it, and the indexes of the ranges that overlap it.
func (t *taken) overlapping(first, last uint16) (from, to int, others []claim) {
	from, _ = slices.BinarySearchFunc(t.ranges, first, func(r claim, port uint16) int { return cmp.Compare(r.last, port) })
	for to = from; to < len(t.ranges) && t.ranges[to].first <= last; to++ {
		r := t.ranges[to]
		others = append(others, claim{max(r.first, first), min(r.last, last), r.owner})
	}
	ranges := len(others)
	if size := int(last-first) + 1; size <= len(t.single) {
		for port := int(first); port <= int(last); port++ {
			if owner := t.single[uint16(port)]; owner != nil {
				others = append(others, claim{uint16(port), uint16(port), owner})
			}
		}
	} else {
		for port, owner := range t.single {
			if first <= port && port <= last {
				others = append(others, claim{port, port, owner})
			}
		}
	}
	if len(others) > max(ranges, 1) {
		slices.SortFunc(others, func(a, b claim) int { return cmp.Compare(a.first, b.first) })
	}
	return from, to, others
}

// insert adds sorted claims, whose place among the ranges is from:to.
func (t *taken) insert(from, to int, claims ...claim) {
	ranges := slices.DeleteFunc(slices.Clone(claims), func(c claim) bool { return c.first == c.last })
	for _, c := range claims {
		if c.first == c.last {
			t.single[c.first] = c.owner
		}
	}
	if len(ranges) == 0 {
		return
	}
	ranges = append(ranges, t.ranges[from:to]...)
	slices.SortFunc(ranges, func(a, b claim) int { return cmp.Compare(a.first, b.first) })
	t.ranges = slices.Replace(t.ranges, from, to, ranges...)
}
