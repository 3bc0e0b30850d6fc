// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package finding

import (
	"cmp"
	"net/netip"
	"strings"

	"k8s.io/apimachinery/pkg/types"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/objects"
)

// Report is the result of one apply: what it was calculated from, what is in effect, and why some of it is not. It is shared and
// must not be changed.
type Report struct {
	Snapshot objects.Snapshot
	Host     gateway.Host
	State    gateway.State
	Findings []Finding
	// Refused is what Mappings ask for and do not get, sorted.
	Refused []Refused
	// Resolved are the addresses of the addressesFrom of Mappings on this host.
	Resolved map[types.NamespacedName]Resolved
	// Err is why the apply failed, at least in part.
	Err error
}

// ResolvedOf returns the addresses of a Mapping's addressesFrom, or the zero value.
func (r *Report) ResolvedOf(namespace, name string) Resolved {
	return r.Resolved[types.NamespacedName{Namespace: namespace, Name: name}]
}

// Refused is a Frontend, or a part of one, that a Mapping asks this host for and does not get, although the host has the address.
type Refused struct {
	// Owner is the Mapping, as namespace/name.
	Owner string
	// Frontend is the zero value if the Mapping is invalid, so that it is unknown what it asks for.
	gateway.Frontend
	// Reason is that of a Finding.
	Reason string
}

// Compare orders by Frontend and Owner.
func (r Refused) Compare(o Refused) int {
	return cmp.Or(r.Frontend.Compare(o.Frontend), strings.Compare(r.Owner, o.Owner))
}

// Resolved are the addresses that the addressesFrom of a Mapping currently refer to on this host.
type Resolved struct {
	// Addresses has none of spec.addresses.
	Addresses []netip.Addr
	// Uplinks are those items of addressesFrom, as spelled there, that give the Mapping an address.
	Uplinks []string
}
