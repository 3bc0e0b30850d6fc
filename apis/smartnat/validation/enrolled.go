// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package validation

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Limits of what a gateway is enrolled for.
const (
	maxEnrolled       = 256
	maxEnrolledLength = 16 << 10
)

// uplinkPrefix begins an uplink in the text of Enrolled.
const uplinkPrefix = "uplink:"

// Enrolled is what a gateway is enrolled for (v1alpha1.AddressesAnnotation): external addresses, and uplinks that addressesFrom of a
// Mapping may name. Its fields are sorted.
type Enrolled struct {
	Networks []netip.Prefix
	Uplinks  []string
}

// ParseEnrolled reads a list of addresses, networks and uplinks such as "198.51.100.10, 2001:db8::/64, uplink:eth1".
func ParseEnrolled(text string) (Enrolled, error) {
	var e Enrolled
	items := strings.Split(text, ",")
	if len(items) > maxEnrolled || len(text) > maxEnrolledLength {
		return e, fmt.Errorf("has more than %d entries or %d bytes: use networks", maxEnrolled, maxEnrolledLength)
	}
	for _, item := range items {
		item = strings.TrimSpace(item)
		if uplink, found := strings.CutPrefix(item, uplinkPrefix); found {
			if uplink == "" || strings.ContainsAny(uplink, " \t\n") {
				return Enrolled{}, fmt.Errorf("%.60q does not name an uplink: want uplink:NAME, such as uplink:eth1", item)
			}
			e.Uplinks = append(e.Uplinks, uplink)
			continue
		}
		network, problem := parseEnrolled(item)
		if problem != "" {
			return Enrolled{}, fmt.Errorf("%.60q %s", item, problem)
		}
		e.Networks = append(e.Networks, network)
	}
	slices.SortFunc(e.Networks, netip.Prefix.Compare)
	slices.Sort(e.Uplinks)
	e.Networks, e.Uplinks = slices.Compact(e.Networks), slices.Compact(e.Uplinks)
	return e, nil
}

func parseEnrolled(item string) (_ netip.Prefix, problem string) {
	if address, err := netip.ParseAddr(item); err == nil {
		if address.Zone() != "" || address.Is4In6() {
			return netip.Prefix{}, "must have no zone and not be IPv4-mapped"
		}
		return netip.PrefixFrom(address, address.BitLen()), ""
	}
	network, err := netip.ParsePrefix(item)
	switch {
	case err != nil:
		return network, "is neither an address such as 198.51.100.10, nor a network such as 198.51.100.0/28, nor uplink:NAME"
	case network.Addr().Is4In6():
		return network, "must not be IPv4-mapped"
	case network != network.Masked():
		return network, fmt.Sprintf("has bits set beyond its prefix length: want %s", network.Masked())
	}
	return network, ""
}

// String returns the text that ParseEnrolled reads.
func (e Enrolled) String() string {
	var items []string
	for _, n := range e.Networks {
		if n.IsSingleIP() {
			items = append(items, n.Addr().String())
		} else {
			items = append(items, n.String())
		}
	}
	for _, uplink := range e.Uplinks {
		items = append(items, uplinkPrefix+uplink)
	}
	return strings.Join(items, ",")
}
