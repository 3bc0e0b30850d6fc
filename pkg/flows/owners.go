// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package flows

import (
	"net/netip"

	"github.com/smartnat/smartnat/pkg/gateway"
)

// Owners finds the Mapping of a Flow.
type Owners struct {
	here, absent []*gateway.Forward
	// pods maps the pods with an external address to the Mapping.
	pods map[netip.Addr]string
}

// NewOwners returns the Owners in a State.
func NewOwners(state gateway.State) Owners {
	o := Owners{state.Forwards, state.Absent.Forwards, map[netip.Addr]string{}}
	for _, egresses := range [][]gateway.Egress{state.Absent.Egresses, state.Egresses} {
		for _, e := range egresses {
			for _, pod := range e.Sources {
				o.pods[pod] = e.Owner
			}
		}
	}
	return o
}

// Of returns the Mapping as namespace/name, or "" if none makes such a connection any more.
func (o Owners) Of(f Flow) string {
	for _, forwards := range [][]*gateway.Forward{o.here, o.absent} {
		if forward := gateway.FindForward(forwards, f.Protocol, f.External); forward != nil {
			return forward.Owner
		}
	}
	return o.pods[f.Client.Addr()]
}
