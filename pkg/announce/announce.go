// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package announce decides which served addresses a gateway among many announces to its router, and renders them for BIRD. Values in,
// values out: pkg/announce/bird writes the file and tells BIRD. It must never know sockets, routing protocols or objects.
package announce

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/smartnat/smartnat/pkg/gateway"
)

// Facts are what the decision depends on.
type Facts struct {
	// Networks bound what may be announced.
	Networks []netip.Prefix
	// Problem says why this gateway must not be announced at all; "" if it works.
	Problem string
	// State is in effect. Failed means that its apply failed in part, so that addresses new in it are not announced yet.
	State  gateway.State
	Failed bool
	// Routes are those of the host, and Unreachable the sorted next hops of them that do not answer.
	Routes      []gateway.Route
	Unreachable []netip.Addr
}

// Same reports whether other facts are the same. A State that has not changed shares its list of Forwards.
func (f *Facts) Same(o *Facts) bool {
	a, b := f.State.Forwards, o.State.Forwards
	return f.Problem == o.Problem && f.Failed == o.Failed && slices.Equal(f.Networks, o.Networks) &&
		slices.Equal(f.Unreachable, o.Unreachable) && slices.Equal(f.Routes, o.Routes) &&
		len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}

// mayAnnounce reports whether the config allows to announce an address.
func (f *Facts) mayAnnounce(a netip.Addr) bool {
	return slices.ContainsFunc(f.Networks, func(n netip.Prefix) bool { return n.Contains(a) })
}

// Address is one that may be announced, and whether it is.
type Address struct {
	Address netip.Addr `json:"address"`
	// Why is empty if it is announced.
	Why string `json:"why,omitempty"`
}

// Status is what a gateway announces.
type Status struct {
	Addresses []Address `json:"addresses"`
	// Problem says why BIRD may not announce them so.
	Problem string `json:"problem,omitempty"`
}

const (
	// unused and failed are reasons.
	unused = "no Mapping in effect here uses it"
	failed = "the last apply failed: it is announced after the next one that works"
	silent = "no next hop to its endpoints answers: %s"
)

// Decide returns each address that may be announced, sorted. announced are those of before.
func Decide(f Facts, announced []netip.Addr) []Address {
	served := map[netip.Addr]bool{}
	for _, forward := range f.State.Forwards {
		served[forward.Address] = true
	}
	var addresses []netip.Addr
	for a := range served {
		if f.mayAnnounce(a) {
			addresses = append(addresses, a)
		}
	}
	for _, n := range f.Networks { // those that the config names
		if n.IsSingleIP() && !served[n.Addr()] {
			addresses = append(addresses, n.Addr())
		}
	}
	slices.SortFunc(addresses, netip.Addr.Compare)
	all := []Address{}
	lost := lostHops(f)
	for _, a := range slices.Compact(addresses) {
		why := f.Problem
		switch {
		case why != "":
		case !served[a]:
			why = unused
		case f.Failed && !slices.Contains(announced, a):
			why = failed
		case lost[a] != nil:
			why = fmt.Sprintf(silent, some(lost[a]))
		}
		all = append(all, Address{a, why})
	}
	return all
}

// Announced returns the addresses that are announced.
func Announced(all []Address) []netip.Addr {
	var announced []netip.Addr
	for _, a := range all {
		if a.Why == "" {
			announced = append(announced, a.Address)
		}
	}
	return announced
}

// Render returns a file for BIRD 2 with a host route for each address, in a protocol for each family. The protocols stay without
// addresses, so that filters may name them.
func Render(addresses []netip.Addr) string {
	var b strings.Builder
	b.WriteString("# Written by smartnatd: the addresses that this gateway announces. It replaces this file at each change.\n")
	for _, family := range []struct {
		name, channel string
		four          bool
	}{{"smartnat4", "ipv4", true}, {"smartnat6", "ipv6", false}} {
		fmt.Fprintf(&b, "protocol static %s {\n    %s;\n", family.name, family.channel)
		for _, a := range addresses {
			if a.Is4() == family.four && a.Zone() == "" {
				fmt.Fprintf(&b, "    route %s blackhole;\n", netip.PrefixFrom(a, a.BitLen()))
			}
		}
		b.WriteString("}\n")
	}
	return b.String()
}
