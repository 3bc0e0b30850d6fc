// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package calc

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/smartnat/smartnat/pkg/gateway"
)

// claims remember which Mapping has which port: the first one that asks.
type claims map[claimKey]*ports

type claimKey struct {
	address  netip.Addr
	protocol gateway.Protocol
}

type ports struct {
	single map[uint16]*entry
	// ranges are in order, and none overlaps another.
	ranges []portClaim
}

type portClaim struct {
	gateway.PortRange
	owner *entry
}

// take gives the Frontend to the Mapping, or returns the one that has it, or some of its ports, already.
func (c claims) take(f gateway.Frontend, e *entry) *entry {
	key := claimKey{f.Address, f.Protocol}
	taken := c[key]
	if taken == nil {
		taken = &ports{single: map[uint16]*entry{}}
		c[key] = taken
	}
	if owner := taken.owner(f.Ports); owner != nil {
		return owner
	}
	if f.Ports.Single() {
		taken.single[f.Ports.First] = e
	} else {
		taken.ranges = slices.Insert(taken.ranges, taken.from(f.Ports.First), portClaim{f.Ports, e})
	}
	return nil
}

// from returns the index of the first range that ends at the port or behind it.
func (p *ports) from(port uint16) int {
	i, _ := slices.BinarySearchFunc(p.ranges, port, func(r portClaim, port uint16) int { return cmp.Compare(r.Last, port) })
	return i
}

func (p *ports) owner(wanted gateway.PortRange) *entry {
	if i := p.from(wanted.First); i < len(p.ranges) && p.ranges[i].Overlaps(wanted) {
		return p.ranges[i].owner
	}
	if len(p.single) == 0 {
		return nil
	}
	for port := int(wanted.First); port <= int(wanted.Last); port++ {
		if owner := p.single[uint16(port)]; owner != nil {
			return owner
		}
	}
	return nil
}
