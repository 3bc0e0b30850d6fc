// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"iter"

	"github.com/smartnat/smartnat/pkg/gateway"
)

// merged yields sorted forwards. Adjacent forwards with the same destination become one.
func merged(forwards []*gateway.Forward) iter.Seq[*gateway.Forward] {
	return func(yield func(*gateway.Forward) bool) {
		for i := 0; i < len(forwards); {
			one := forwards[i]
			joined := *one
			for i++; i < len(forwards) && join(&joined, forwards[i]); i++ {
			}
			if joined.Ports != one.Ports {
				one = new(gateway.Forward)
				*one = joined
			}
			if !yield(one) {
				return
			}
		}
	}
}

// join adds the ports of y, the next forward, to x if one rule can translate all of them: all to the same port of a backend, or
// each to a port at the same distance.
//
// Shifted ports stay separate if the client keeps its address: within a range, the kernel may choose another port of the
// backend (see the limits of the package).
func join(x, y *gateway.Forward) bool {
	if uint32(x.Ports.Last)+1 != uint32(y.Ports.First) || len(x.Backends) == 0 || len(x.Backends) != len(y.Backends) ||
		x.Owner != y.Owner || x.Affinity != y.Affinity || x.Masquerade != y.Masquerade || !sameSources(x, y) {
		return false
	}
	same := (x.Ports.Single() || !x.Shift) && (y.Ports.Single() || !y.Shift)
	shift := (x.Ports.Single() || x.Shift) && (y.Ports.Single() || y.Shift)
	for i := range x.Backends {
		from, to := x.Backends[i], y.Backends[i]
		if from.Address != to.Address {
			return false
		}
		same = same && from.Port == to.Port
		shift = shift && uint32(from.Port)+uint32(y.Ports.First-x.Ports.First) == uint32(to.Port) &&
			(x.Masquerade || from.Port == x.Ports.First)
	}
	if !same && !shift {
		return false
	}
	x.Ports.Last, x.Shift = y.Ports.Last, shift
	return true
}
