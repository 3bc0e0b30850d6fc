// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package calc

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/finding"
	"github.com/smartnat/smartnat/pkg/gateway"
)

// masqueradeAddresses assigns the config's addresses to the links in whose networks they are. Forwarded connections leave by an
// uplink only to networks of the cluster, so without such networks an uplink gets no address.
func masqueradeAddresses(state *gateway.State, host gateway.Host, cfg config.Config) ([]gateway.LinkAddresses, []finding.Finding) {
	byLink := map[string][]netip.Addr{}
	var findings []finding.Finding
	for i, a := range cfg.MasqueradeAddresses {
		inside, outside := linksAround(state, host, a)
		for _, name := range inside {
			byLink[name] = append(byLink[name], a)
		}
		if len(inside) > 0 {
			continue
		}
		why := "is in the network of no link of this host"
		if len(outside) > 0 {
			why = fmt.Sprintf("is only in the network of %s, and the config lists no insideNetworks behind it", strings.Join(outside, ", "))
		}
		findings = append(findings, finding.Finding{
			Reason: finding.ReasonNoMasqueradeLink, Field: fmt.Sprintf("masqueradeAddresses[%d]", i),
			Message: fmt.Sprintf("%s %s, so nothing is masqueraded to it; it must be in a network by which this host reaches the pods", a, why),
		})
	}
	var list []gateway.LinkAddresses
	for name, addresses := range byLink {
		slices.SortFunc(addresses, netip.Addr.Compare)
		list = append(list, gateway.LinkAddresses{Link: name, Addresses: addresses})
	}
	slices.SortFunc(list, func(a, b gateway.LinkAddresses) int { return strings.Compare(a.Link, b.Link) })
	return list, findings
}

// linksAround returns the links with a network that contains the address: those by which connections to backends may leave, and
// the others.
func linksAround(state *gateway.State, host gateway.Host, a netip.Addr) (inside, outside []string) {
	family := gateway.IPv4
	if a.Is6() {
		family = gateway.IPv6
	}
	leaving, toCluster := state.LeavingLinks(), len(state.ClusterNetworks(family)) > 0
	for _, l := range host.Links {
		if l.Name == "lo" || !slices.ContainsFunc(connected(l), func(p netip.Prefix) bool { return p.Contains(a) }) {
			continue
		}
		if slices.Contains(leaving, l.Name) && !toCluster {
			outside = append(outside, l.Name)
		} else {
			inside = append(inside, l.Name)
		}
	}
	return inside, outside
}
