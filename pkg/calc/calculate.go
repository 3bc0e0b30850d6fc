// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package calc

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/gateway"
)

// Calculate computes what the host is to do, and says what it cannot do and why. Findings are sorted by Mapping, those of one
// Mapping in the order of its fields; those about the host come first.
func Calculate(snapshot Snapshot, host gateway.Host, cfg config.Config) (gateway.State, []Finding) {
	c := calculation{
		cfg:      cfg,
		services: make(map[types.NamespacedName]*corev1.Service, len(snapshot.Services)),
		slices:   make(map[types.NamespacedName][]*discoveryv1.EndpointSlice, len(snapshot.Services)),
		local:    localAddresses(host, cfg),
		claims:   claims{},
	}
	for _, s := range snapshot.Services {
		c.services[types.NamespacedName{Namespace: s.Namespace, Name: s.Name}] = s
	}
	for _, s := range snapshot.EndpointSlices {
		service := types.NamespacedName{Namespace: s.Namespace, Name: s.Labels[discoveryv1.LabelServiceName]}
		c.slices[service] = append(c.slices[service], s)
	}
	for _, m := range byAge(snapshot.Mappings) {
		c.add(m)
	}
	slices.SortStableFunc(c.findings, func(a, b Finding) int {
		return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
	})
	slices.SortFunc(c.forwards, func(a, b gateway.Forward) int {
		return cmp.Or(a.Address.Compare(b.Address), strings.Compare(string(a.Protocol), string(b.Protocol)), cmp.Compare(a.Ports.First, b.Ports.First))
	})
	uplinks, hostFindings := uplinks(host, cfg)
	state := gateway.State{Forwards: c.forwards, Uplinks: uplinks, ServiceRoutes: serviceRoutes(cfg.ServiceRoutes)}
	return state, append(hostFindings, c.findings...)
}

// calculation is one run of Calculate.
type calculation struct {
	cfg      config.Config
	services map[types.NamespacedName]*corev1.Service
	slices   map[types.NamespacedName][]*discoveryv1.EndpointSlice
	local    map[netip.Addr]bool
	claims   claims
	forwards []gateway.Forward
	findings []Finding
}

// byAge puts the Mappings into the order in which they may take ports: the oldest first, then by namespace and name.
func byAge(mappings []*v1alpha1.Mapping) []*v1alpha1.Mapping {
	sorted := slices.Clone(mappings)
	slices.SortFunc(sorted, func(a, b *v1alpha1.Mapping) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
	})
	return sorted
}

// localAddresses are those that this host has or may take over.
func localAddresses(host gateway.Host, cfg config.Config) map[netip.Addr]bool {
	local := map[netip.Addr]bool{}
	for _, link := range host.Links {
		for _, a := range link.Addresses {
			local[a.Addr()] = true
		}
	}
	for _, a := range cfg.StandbyAddresses {
		local[a] = true
	}
	return local
}

// serviceRoutes keeps the next hops that can lead to the destination at all.
func serviceRoutes(configured []gateway.ServiceRoute) []gateway.ServiceRoute {
	var routes []gateway.ServiceRoute
	for _, r := range configured {
		via := slices.DeleteFunc(slices.Clone(r.Via), func(a netip.Addr) bool { return a.Is4() != r.Destination.Addr().Is4() })
		if len(via) == 0 {
			continue
		}
		slices.SortFunc(via, netip.Addr.Compare)
		routes = append(routes, gateway.ServiceRoute{Destination: r.Destination.Masked(), Via: slices.Compact(via)})
	}
	slices.SortFunc(routes, func(a, b gateway.ServiceRoute) int { return comparePrefixes(a.Destination, b.Destination) })
	return routes
}

func comparePrefixes(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}

func (c *calculation) report(m *v1alpha1.Mapping, condition, reason, field, format string, args ...any) {
	c.findings = append(c.findings, Finding{
		Namespace: m.Namespace, Name: m.Name, Condition: condition, Reason: reason, Field: field, Message: fmt.Sprintf(format, args...),
	})
}
