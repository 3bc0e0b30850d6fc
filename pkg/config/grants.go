// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"net/netip"
	"slices"

	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Values of grants.
const (
	// GrantsOpen needs PortGrants only for addresses that one covers.
	GrantsOpen = "open"
	// GrantsReport serves what would be refused with GrantsRequired, and reports it.
	GrantsReport = "report"
	// GrantsRequired needs PortGrants for all addresses.
	GrantsRequired = "required"
)

// PinnedGrant is what the source of objects may ask for, whatever PortGrants it shows. Several add up.
type PinnedGrant struct {
	// Addresses are networks of external addresses; at least one.
	Addresses []netip.Prefix
	// Ports may be used; all by default.
	Ports []ReservedPorts
	// Namespaces may use them; all by default. The source says which namespace a Mapping is in.
	Namespaces []string
	// AllowedSources are the widest networks of clients that a Mapping may let in; all by default.
	AllowedSources []netip.Prefix
	// MaxPorts bounds the ports that each namespace may use; 0, the default, means no limit.
	MaxPorts int
	// Egress, EndpointsWithoutSelector and ReservedPorts also allow these. The last one also needs a PortGrant that says so, and never
	// takes a port from a program on this host.
	Egress, EndpointsWithoutSelector, ReservedPorts bool
}

// Limits of a pinned grant, as those of a PortGrant.
const (
	maxPinnedNetworks, maxPinnedSources = 64, 256
	maxPinnedPorts, maxPinnedNamespaces = 64, 256
	maxPinnedCount                      = 1 << 24
)

func (c *Config) validateGrants() field.ErrorList {
	errs := validateChoice(c.Grants, field.NewPath("grants"), GrantsOpen, GrantsReport, GrantsRequired)
	for i := range c.PinnedGrants {
		p, at := &c.PinnedGrants[i], field.NewPath("pinnedGrants").Index(i)
		if len(p.Addresses) == 0 {
			errs = append(errs, field.Required(at.Child("addresses"), "must hold at least one network such as 198.51.100.10/32"))
		}
		errs = append(errs, validatePrefixes(p.Addresses, at.Child("addresses"), 0)...)
		for j, name := range p.Namespaces {
			switch {
			case len(validation.IsDNS1123Label(name)) > 0:
				errs = append(errs, field.Invalid(at.Child("namespaces").Index(j), name, "must be the name of a namespace"))
			case slices.Contains(p.Namespaces[:j], name):
				errs = append(errs, field.Duplicate(at.Child("namespaces").Index(j), name))
			}
		}
		errs = append(errs, validatePrefixes(p.AllowedSources, at.Child("allowedSources"), 0)...)
		if p.MaxPorts < 0 || p.MaxPorts > maxPinnedCount {
			errs = append(errs, field.Invalid(at.Child("maxPorts"), p.MaxPorts, fmt.Sprintf("must be between 0, no limit, and %d", maxPinnedCount)))
		}
		for _, list := range []struct {
			key          string
			length, most int
		}{
			{"addresses", len(p.Addresses), maxPinnedNetworks}, {"ports", len(p.Ports), maxPinnedPorts},
			{"namespaces", len(p.Namespaces), maxPinnedNamespaces}, {"allowedSources", len(p.AllowedSources), maxPinnedSources},
		} {
			if list.length > list.most {
				errs = append(errs, field.TooMany(at.Child(list.key), list.length, list.most))
			}
		}
	}
	return errs
}
