// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"cmp"
	"slices"
)

// Subtract returns the parts of r outside the taken ranges, in order. The taken ranges may overlap, extend beyond r, and be in
// any order.
func (r PortRange) Subtract(taken ...PortRange) []PortRange {
	taken = slices.Clone(taken)
	slices.SortFunc(taken, func(a, b PortRange) int { return cmp.Compare(a.First, b.First) })
	var left []PortRange
	for _, t := range taken {
		switch {
		case !t.Overlaps(r):
			continue
		case t.First > r.First:
			left = append(left, PortRange{First: r.First, Last: t.First - 1})
		}
		if t.Last >= r.Last {
			return left
		}
		r.First = t.Last + 1
	}
	return append(left, r)
}

// WithPorts returns the Forward limited to a part of its ports, which keep their destinations.
func (f *Forward) WithPorts(ports PortRange) *Forward {
	part := *f
	part.Ports = ports
	part.Shift = f.Shift && !ports.Single()
	if by := ports.First - f.Ports.First; f.Shift && by > 0 {
		part.Backends, part.Draining = shifted(f.Backends, by), shifted(f.Draining, by)
	}
	return &part
}

func shifted(backends []Backend, by uint16) []Backend {
	backends = slices.Clone(backends)
	for i := range backends {
		backends[i].Port += by
	}
	return backends
}
