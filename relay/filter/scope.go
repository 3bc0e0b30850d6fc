// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package filter

import (
	"net/netip"
	"slices"

	"github.com/smartnat/smartnat/apis/kinds"
	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/apis/smartnat/validation"
)

// Scope is the part of the visible objects that one gateway may see: the Mappings of the addresses that it is enrolled for, PortGrants
// for any of these addresses, and what these Mappings name. The zero value is nothing.
type Scope struct {
	all      bool
	enrolled validation.Enrolled
	node     bool
}

// Everything is the Scope of all that leaves the cluster.
func Everything() Scope { return Scope{all: true} }

// ScopeOf returns the Scope of a gateway whose ServiceAccount has these annotations. With an error, it is nothing: a mistake must not
// show a gateway more.
func ScopeOf(annotations map[string]string) (Scope, error) {
	node := annotations[v1alpha1.NodeAnnotation] != ""
	text, limited := annotations[v1alpha1.AddressesAnnotation]
	if !limited {
		return Scope{all: true, node: node}, nil
	}
	enrolled, err := validation.ParseEnrolled(text)
	return Scope{enrolled: enrolled, node: node}, err
}

// ShowsNodes reports whether endpoints come with their nodes, because the gateway is one.
func (s Scope) ShowsNodes() bool { return s.node }

// IsEverything reports whether s shows all objects.
func (s Scope) IsEverything() bool { return s.all }

// Equal reports whether both scopes show the same objects.
func (s Scope) Equal(o Scope) bool {
	return s.all == o.all && slices.Equal(s.enrolled.Networks, o.enrolled.Networks) && slices.Equal(s.enrolled.Uplinks, o.enrolled.Uplinks)
}

// includes reports whether s shows an object of a kind of rule Always.
func (s Scope) includes(object kinds.Object) bool {
	if s.all {
		return true
	}
	switch o := object.(type) {
	case *v1alpha1.Mapping:
		return slices.ContainsFunc(o.Spec.Addresses, s.hasAddress) || slices.ContainsFunc(o.Spec.AddressesFrom, s.hasUplink)
	case *v1alpha1.PortGrant:
		return slices.ContainsFunc(o.Spec.Addresses, s.overlaps)
	}
	return false
}

func (s Scope) hasAddress(text string) bool {
	address, err := netip.ParseAddr(text)
	return err == nil && slices.ContainsFunc(s.enrolled.Networks, func(n netip.Prefix) bool { return n.Contains(address) })
}

// hasUplink reports whether a source of addresses may be one of the uplinks. "*" stands for all, on both sides.
func (s Scope) hasUplink(from v1alpha1.AddressSource) bool {
	return slices.ContainsFunc(s.enrolled.Uplinks, func(uplink string) bool {
		return uplink == from.Uplink || uplink == "*" || from.Uplink == "*"
	})
}

// overlaps reports whether an address or network of a PortGrant has an address of s. Addresses of uplinks are not known here, so a
// gateway that serves them sees all PortGrants.
func (s Scope) overlaps(text string) bool {
	if len(s.enrolled.Uplinks) > 0 {
		return true
	}
	network, err := netip.ParsePrefix(text)
	if err != nil {
		return s.hasAddress(text)
	}
	return slices.ContainsFunc(s.enrolled.Networks, network.Overlaps)
}
