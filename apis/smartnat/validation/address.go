// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package validation

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
)

// maxLinkName is IFNAMSIZ without the zero byte at the end (linux/if.h).
const maxLinkName = 15

// validUplink reports whether text names uplinks. The kernel also allows control characters and bytes beyond ASCII in the name
// of a link (dev_valid_name in net/core/dev.c), which would make messages unreadable.
func validUplink(text string) bool {
	switch text {
	case v1alpha1.AllUplinks:
		return true
	case "", ".", "..":
		return false
	}
	return len(text) <= maxLinkName && !strings.ContainsFunc(text, func(r rune) bool {
		return r <= ' ' || r > '~' || r == '/' || r == ':' || r == '*'
	})
}

// AddressProblem returns why text is not an address that may be exposed, spelled as netip.Addr does; empty if it is.
func AddressProblem(text string) string {
	addr, problem := parseAddress(text)
	if problem == "" && addr.String() != text {
		return fmt.Sprintf("must be spelled %s", addr)
	}
	return problem
}

// parseAddress returns an address that may be exposed, or the problem with text.
func parseAddress(text string) (netip.Addr, string) {
	addr, err := netip.ParseAddr(text)
	if err != nil {
		if prefix, err := netip.ParsePrefix(text); err == nil {
			return netip.Addr{}, fmt.Sprintf("is a network; must be an address such as %s", prefix.Addr())
		}
		return netip.Addr{}, "must be an IP address such as 192.0.2.10 or 2001:db8::10"
	}
	return addr, addressProblem(addr)
}

func addressProblem(addr netip.Addr) string {
	const unicast = "; must be a unicast address that others can reach"
	switch {
	case addr.Zone() != "":
		return "has a zone; must be an address without one, such as 2001:db8::10"
	case addr.Is4In6():
		return fmt.Sprintf("is an IPv4-mapped IPv6 address; must be written as %s", addr.Unmap())
	case addr.IsUnspecified():
		return "is the unspecified address" + unicast
	case addr.IsLoopback():
		return "is a loopback address" + unicast
	case addr.IsMulticast():
		return "is a multicast address" + unicast
	case addr.IsLinkLocalUnicast():
		return "is a link-local address" + unicast
	case !addr.IsGlobalUnicast():
		return "is the broadcast address" + unicast
	}
	return ""
}

// parseSource returns a masked network, or the problem with text.
func parseSource(text string) (netip.Prefix, string) {
	prefix, err := netip.ParsePrefix(text)
	if err != nil {
		if addr, err := netip.ParseAddr(text); err == nil && addr.Zone() == "" {
			addr = addr.Unmap()
			return netip.Prefix{}, fmt.Sprintf("is an address; must be a network such as %s/%d", addr, addr.BitLen())
		}
		return netip.Prefix{}, "must be a network in CIDR notation such as 10.0.0.0/16 (length 0 to 32) or 2001:db8::/32 (length 0 to 128)"
	}
	if prefix.Addr().Is4In6() {
		return netip.Prefix{}, "is an IPv4-mapped IPv6 network" + unmapped(prefix)
	}
	if masked := prefix.Masked(); masked != prefix {
		return netip.Prefix{}, fmt.Sprintf("has bits set beyond its prefix length; must be written as %s", masked)
	}
	return prefix, ""
}

func unmapped(prefix netip.Prefix) string {
	bits := prefix.Bits() - 96
	if bits < 0 {
		return "; must be an IPv4 or an IPv6 network"
	}
	return fmt.Sprintf("; must be written as %s", netip.PrefixFrom(prefix.Addr().Unmap(), bits).Masked())
}
