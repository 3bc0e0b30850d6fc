// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package calc

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/smartnat/smartnat/apis/smartnat/conflicts"
	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/pkg/finding"
	"github.com/smartnat/smartnat/pkg/gateway"
)

// entry is a Mapping, what it asks for, and what it gets.
type entry struct {
	mapping *v1alpha1.Mapping
	// dirty is set if its request has to be resolved again.
	dirty bool
	// unsettled is set while its result has to be settled again.
	unsettled bool
	// wants is in the order of the Mapping's ports and addresses.
	wants []want
	// about are the Findings about the Mapping as a whole, aboutPort those about ports, aboutEgress those about egress.
	about, aboutEgress []finding.Finding
	aboutPort          []portFinding
	// resolved is the result of addressesFrom.
	resolved finding.Resolved
	// egress is what it asks for its pods, egresses is what they get.
	egress   []egressRequest
	egresses []gateway.Egress
	// local are its endpoints on this node, if it asks to keep the clients' addresses.
	local []netip.Addr
	// findings are all Findings, in the order of the Mapping's fields.
	findings []finding.Finding
	// unwanted is what it does not get regardless of other Mappings, refusals are all that it does not get.
	unwanted, refusals []finding.Refused
	// usage is what it asks for. over is set if it gets nothing because its namespace asks for too much.
	usage usage
	over  *finding.Finding
}

// want is a Frontend that a Mapping asks for.
type want struct {
	gateway.Forward
	// port is the index of the Mapping's port.
	port int
	// place is where the address is, listed is set while the State has the want, resolved is set if the address comes from an
	// uplink.
	place            place
	listed, resolved bool
	// share is the Mapping's part of the Frontend's ports, reserved are the ports that this host keeps from Mappings.
	share    conflicts.Allocation
	reserved []gateway.PortRange
	// allowance is what allows it. refused says that a PortGrant has no room for it.
	allowance
	refused string
	// parts are the Forwards if the want is not whole.
	parts []*gateway.Forward
}

// whole reports whether the Mapping has all of the Frontend here.
func (w *want) whole() bool { return w.share.Whole() && len(w.reserved) == 0 }

// yields reports whether any other Mapping has precedence, even a younger one: the address comes from an uplink and is absent,
// while the other one names it.
func (w *want) yields() bool { return w.resolved && w.place == absent }

// rank orders wants by their claim to ports, before the age of their Mappings.
type rank struct {
	priority int32
	yields   bool
}

func (r rank) compare(o rank) int {
	switch {
	case r.yields == o.yields:
		return cmp.Compare(o.priority, r.priority)
	case r.yields:
		return 1
	}
	return -1
}

func (w *want) rank() rank { return rank{w.grant.Rank(), w.yields()} }

// sameClaim reports whether both wants claim the same ports with the same precedence.
func (w *want) sameClaim(o *want) bool {
	return w.Frontend == o.Frontend && w.resolved == o.resolved && w.rank() == o.rank() && w.allowance == o.allowance
}

// sameRequest reports whether both wants also lead to the same place in the same way.
func (w *want) sameRequest(o *want) bool {
	return w.sameClaim(o) && w.port == o.port && w.place == o.place && slices.Equal(w.reserved, o.reserved) && gateway.EqualForwards(&w.Forward, &o.Forward)
}

// forwards returns the Forwards of the want: the whole one, or its parts.
func (w *want) forwards() []*gateway.Forward {
	if w.whole() {
		return []*gateway.Forward{&w.Forward}
	}
	return w.parts
}

// claim returns the ports that the want claims.
func (w *want) claim() conflicts.Ports {
	return conflicts.Ports{Address: w.Address, Protocol: v1alpha1.Protocol(w.Protocol), First: w.Ports.First, Last: w.Ports.Last}
}

// take sets the share. Parts are kept if they stay the same.
func (w *want) take(share conflicts.Allocation) {
	if !slices.Equal(share.Free, w.share.Free) || share.Whole() != w.share.Whole() {
		w.parts = nil
	}
	w.share = share
}

// divide creates the Forwards for the parts of the want.
func (w *want) divide() {
	if w.whole() || len(w.parts) > 0 {
		return
	}
	free := []gateway.PortRange{w.Ports}
	if !w.share.Whole() {
		free = free[:0]
		for _, f := range w.share.Free {
			free = append(free, gateway.PortRange{First: f.First, Last: f.Last})
		}
	}
	for _, f := range free {
		for _, ports := range f.Subtract(w.reserved...) {
			w.parts = append(w.parts, w.WithPorts(ports))
		}
	}
}

// place is where the address of a Frontend is, from the view of this host.
type place int

const (
	nowhere place = iota // this host does nothing for it
	here
	absent
)

type portFinding struct {
	port int
	finding.Finding
}
