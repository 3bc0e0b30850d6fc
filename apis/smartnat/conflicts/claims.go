// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package conflicts

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
)

// Claims remember which Mapping has which ports: the first one that asks.
type Claims map[claimKey]*taken

type claimKey struct {
	address  netip.Addr
	protocol v1alpha1.Protocol
}

type taken struct {
	single map[uint16]*v1alpha1.Mapping
	// ranges are in order, and none overlaps another.
	ranges []claimedRange
}

type claimedRange struct {
	first, last uint16
	owner       *v1alpha1.Mapping
}

// Take gives the ports to the Mapping, or returns the one that has some of them already.
func (c Claims) Take(wanted Ports, m *v1alpha1.Mapping) *v1alpha1.Mapping {
	key := claimKey{wanted.Address, wanted.Protocol}
	t := c[key]
	if t == nil {
		t = &taken{single: map[uint16]*v1alpha1.Mapping{}}
		c[key] = t
	}
	if owner := t.owner(wanted.First, wanted.Last); owner != nil {
		return owner
	}
	if wanted.First == wanted.Last {
		t.single[wanted.First] = m
	} else {
		t.ranges = slices.Insert(t.ranges, t.from(wanted.First), claimedRange{wanted.First, wanted.Last, m})
	}
	return nil
}

// from returns the index of the first range that ends at the port or behind it.
func (t *taken) from(port uint16) int {
	i, _ := slices.BinarySearchFunc(t.ranges, port, func(r claimedRange, port uint16) int { return cmp.Compare(r.last, port) })
	return i
}

func (t *taken) owner(first, last uint16) *v1alpha1.Mapping {
	if i := t.from(first); i < len(t.ranges) && t.ranges[i].first <= last {
		return t.ranges[i].owner
	}
	if len(t.single) == 0 {
		return nil
	}
	for port := int(first); port <= int(last); port++ {
		if owner := t.single[uint16(port)]; owner != nil {
			return owner
		}
	}
	return nil
}
