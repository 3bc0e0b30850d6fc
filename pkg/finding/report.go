// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package finding

import (
	"net/netip"

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
	// Resolved are the addresses of the addressesFrom of Mappings on this host.
	Resolved map[types.NamespacedName]Resolved
	// Err is why the apply failed, at least in part.
	Err error
}

// Resolved are the addresses that the addressesFrom of a Mapping currently refer to on this host.
type Resolved struct {
	// Addresses has none of spec.addresses.
	Addresses []netip.Addr
	// Uplinks are those items of addressesFrom, as spelled there, that give the Mapping an address.
	Uplinks []string
}
