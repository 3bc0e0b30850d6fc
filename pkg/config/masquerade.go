// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"net/netip"

	"k8s.io/apimachinery/pkg/util/validation/field"
)

// maxMasqueradeAddresses bounds the rules that the first packet of a masqueraded connection meets.
const maxMasqueradeAddresses = 16

// validateMasqueradeAddresses accepts addresses to which routers and pods can send answers.
func validateMasqueradeAddresses(addrs []netip.Addr, at *field.Path) field.ErrorList {
	if n := len(addrs); n > maxMasqueradeAddresses {
		return field.ErrorList{field.Invalid(at, n, fmt.Sprintf("must hold at most %d addresses", maxMasqueradeAddresses))}
	}
	var errs field.ErrorList
	seen := map[netip.Addr]bool{}
	for i, a := range addrs {
		switch {
		case !a.IsGlobalUnicast():
			errs = append(errs, field.Invalid(at.Index(i), a.String(),
				"must be a unicast address of a network that leads to the pods, not unspecified, loopback, link-local, multicast or broadcast"))
		case a.Is4In6() || a.Zone() != "":
			errs = append(errs, field.Invalid(at.Index(i), a.String(), "must be written as "+a.Unmap().WithZone("").String()))
		case seen[a]:
			errs = append(errs, field.Invalid(at.Index(i), a.String(), "must be listed only once"))
		}
		seen[a] = true
	}
	return errs
}
