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
	uplinks, findings := uplinks(host, cfg)
	routes, routeFindings := serviceRoutes(host, cfg)
	c := newCalculation(snapshot, host, cfg, uplinks)
	for _, m := range byAge(snapshot.Mappings) {
		before := len(c.findings)
		c.add(m)
		c.findings = append(c.findings[:before], fewOfAKind(c.findings[before:])...)
	}
	slices.SortStableFunc(c.findings, func(a, b Finding) int {
		return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
	})
	slices.SortFunc(c.forwards, func(a, b gateway.Forward) int {
		return cmp.Or(a.Address.Compare(b.Address), strings.Compare(string(a.Protocol), string(b.Protocol)), cmp.Compare(a.Ports.First, b.Ports.First))
	})
	slices.SortFunc(c.egresses, func(a, b gateway.Egress) int {
		return cmp.Or(strings.Compare(a.Owner, b.Owner), a.Address.Compare(b.Address))
	})
	return gateway.State{
		Forwards: c.forwards, Uplinks: uplinks, ServiceRoutes: routes, Egresses: c.egresses, ClampMSS: cfg.ClampMSS,
	}, slices.Concat(findings, routeFindings, c.findings)
}

// calculation is one run of Calculate.
type calculation struct {
	cfg      config.Config
	sctp     bool
	services map[types.NamespacedName]*corev1.Service
	slices   map[types.NamespacedName][]*discoveryv1.EndpointSlice
	// read are the slices of the Services that were asked for.
	read map[types.NamespacedName][]*endpointSlice
	// held are the addresses that are on a link of this host, local those that it is to forward for.
	held, local map[netip.Addr]bool
	// uplinkOf has the number of the uplink that an address is on.
	uplinkOf     map[netip.Addr]int
	claims       claims
	egressClaims map[netip.Addr]egressClaim
	forwards     []gateway.Forward
	egresses     []gateway.Egress
	findings     []Finding
}

func newCalculation(snapshot Snapshot, host gateway.Host, cfg config.Config, uplinks []gateway.Uplink) *calculation {
	c := &calculation{
		cfg: cfg,
		// A host that is only imagined lacks nothing.
		sctp:         host.SCTP || cfg.AnyAddress,
		services:     make(map[types.NamespacedName]*corev1.Service, len(snapshot.Services)),
		slices:       make(map[types.NamespacedName][]*discoveryv1.EndpointSlice, len(snapshot.Services)),
		read:         map[types.NamespacedName][]*endpointSlice{},
		held:         map[netip.Addr]bool{},
		local:        map[netip.Addr]bool{},
		uplinkOf:     map[netip.Addr]int{},
		claims:       claims{},
		egressClaims: map[netip.Addr]egressClaim{},
	}
	for _, s := range snapshot.Services {
		c.services[types.NamespacedName{Namespace: s.Namespace, Name: s.Name}] = s
	}
	for _, s := range snapshot.EndpointSlices {
		service := types.NamespacedName{Namespace: s.Namespace, Name: s.Labels[discoveryv1.LabelServiceName]}
		c.slices[service] = append(c.slices[service], s)
	}
	for _, link := range host.Links {
		uplink := slices.IndexFunc(uplinks, func(u gateway.Uplink) bool { return u.Link == link.Name })
		for _, a := range link.Addresses {
			c.held[a.Addr()], c.local[a.Addr()] = true, true
			if uplink < 0 {
				continue
			}
			if n := uplinks[uplink].Number; c.uplinkOf[a.Addr()] == 0 || n < c.uplinkOf[a.Addr()] {
				c.uplinkOf[a.Addr()] = n
			}
		}
	}
	for _, a := range cfg.StandbyAddresses {
		c.local[a] = true
	}
	return c
}

// byAge puts the Mappings into the order in which they may take ports: the oldest first, then by namespace and name.
func byAge(mappings []*v1alpha1.Mapping) []*v1alpha1.Mapping {
	sorted := slices.Clone(mappings)
	slices.SortFunc(sorted, func(a, b *v1alpha1.Mapping) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
	})
	return sorted
}

// fewOfAKind keeps the first Findings of each reason: ten thousand of them help nobody, and fit in no status.
func fewOfAKind(findings []Finding) []Finding {
	const most = 16
	last, dropped := map[string]int{}, map[string]int{}
	count := map[string]int{}
	var few []Finding
	for _, f := range findings {
		if count[f.Reason]++; count[f.Reason] > most {
			dropped[f.Reason]++
			continue
		}
		last[f.Reason] = len(few)
		few = append(few, f)
	}
	for reason, n := range dropped {
		few[last[reason]].Message += fmt.Sprintf("; and %d more like this", n)
	}
	return few
}

func (c *calculation) report(m *v1alpha1.Mapping, condition, reason, field, format string, args ...any) {
	c.findings = append(c.findings, Finding{
		Namespace: m.Namespace, Name: m.Name, Condition: condition, Reason: reason, Field: field, Message: fmt.Sprintf(format, args...),
	})
}
