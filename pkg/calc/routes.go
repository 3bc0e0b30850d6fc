// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package calc

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/finding"
	"github.com/smartnat/smartnat/pkg/gateway"
)

// serviceRoutes keeps the next hops that can lead to the destination and answer. If none answers, all stay: a route that may
// work again soon is better than none, which would send packets outside.
func serviceRoutes(host gateway.Host, cfg config.Config) ([]gateway.ServiceRoute, []finding.Finding) {
	var routes []gateway.ServiceRoute
	var findings []finding.Finding
	for i, r := range cfg.ServiceRoutes {
		var via, silent []netip.Addr
		for j, hop := range r.Via {
			switch {
			case hop.Is4() != r.Destination.Addr().Is4():
				continue
			case slices.Contains(host.Unreachable, hop):
				silent = append(silent, hop)
				findings = append(findings, finding.Finding{
					Reason: finding.ReasonNextHopUnreachable, Field: fmt.Sprintf("serviceRoutes[%d].via[%d]", i, j),
					Message: fmt.Sprintf("next hop %s does not answer; %s is routed through those that do, or through all if none does", hop, r.Destination),
				})
			default:
				via = append(via, hop)
			}
		}
		if len(via) == 0 {
			via = silent
		}
		if len(via) == 0 {
			continue
		}
		slices.SortFunc(via, netip.Addr.Compare)
		routes = append(routes, gateway.ServiceRoute{Destination: r.Destination.Masked(), Via: slices.Compact(via)})
	}
	slices.SortFunc(routes, func(a, b gateway.ServiceRoute) int { return comparePrefixes(a.Destination, b.Destination) })
	return routes, findings
}

func comparePrefixes(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}
