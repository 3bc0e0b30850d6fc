// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package filtertest says in one plain function which objects leave a cluster. Tests compare with it what filter.Index, the
// watch cache and the API show after any sequence of changes.
package filtertest

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/relay/filter"
)

// Cluster holds the objects of a cluster that may be visible outside.
type Cluster struct {
	Mappings       []*v1alpha1.Mapping
	Services       []*corev1.Service
	EndpointSlices []*discoveryv1.EndpointSlice
	PortGrants     []*v1alpha1.PortGrant
	Namespaces     []*corev1.Namespace
}

// VisibleIn returns the objects of a cluster that a gateway that is enrolled for addresses and networks sees: Mappings of one of these
// addresses, PortGrants for one, and what Visible adds to these Mappings.
func VisibleIn(in Cluster, enrolled ...string) Cluster {
	has := func(address string) bool {
		return slices.ContainsFunc(enrolled, func(of string) bool { return network(of).Overlaps(network(address)) })
	}
	within := in
	within.Mappings, within.PortGrants = nil, nil
	for _, m := range in.Mappings {
		if slices.ContainsFunc(m.Spec.Addresses, has) {
			within.Mappings = append(within.Mappings, m)
		}
	}
	for _, g := range in.PortGrants {
		if slices.ContainsFunc(g.Spec.Addresses, has) {
			within.PortGrants = append(within.PortGrants, g)
		}
	}
	return Visible(within)
}

// network reads an address as a network of its own.
func network(text string) netip.Prefix {
	if address, err := netip.ParseAddr(text); err == nil {
		return netip.PrefixFrom(address, address.BitLen())
	}
	return netip.MustParsePrefix(text)
}

// Visible returns the objects that leave a cluster, stripped: all Mappings, so that their authors can see their status, the Services
// and EndpointSlices that a valid Mapping names, the namespaces of these, and all PortGrants.
func Visible(in Cluster) Cluster {
	var out Cluster
	named, holding := map[types.NamespacedName]bool{}, map[string]bool{}
	for _, m := range in.Mappings {
		out.Mappings = append(out.Mappings, filter.Mapping(m))
		if service, ok := filter.ServiceOf(m); ok {
			named[service], holding[service.Namespace] = true, true
		}
	}
	for _, s := range in.Services {
		if named[types.NamespacedName{Namespace: s.Namespace, Name: s.Name}] {
			out.Services = append(out.Services, filter.Service(s))
		}
	}
	for _, s := range in.EndpointSlices {
		if service, ok := filter.OwnerService(s); ok && named[service] {
			out.EndpointSlices = append(out.EndpointSlices, filter.EndpointSlice(s))
		}
	}
	for _, g := range in.PortGrants {
		out.PortGrants = append(out.PortGrants, filter.PortGrant(g))
	}
	for _, n := range in.Namespaces {
		if holding[n.Name] {
			out.Namespaces = append(out.Namespaces, filter.Namespace(n))
		}
	}
	return out
}
