// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package kinds

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
)

// The rows of the table.
var (
	// Mapping is the kind of Mappings.
	Mapping = Define[v1alpha1.Mapping, v1alpha1.MappingList](Names{
		GroupVersionResource: v1alpha1.SchemeGroupVersion.WithResource("mappings"),
		Kind:                 "Mapping", Singular: "mapping", ShortNames: []string{"smap"}, Categories: []string{"smartnat"},
	}, mappingForGateway)
	// Service is the kind of Services.
	Service = Define[corev1.Service, corev1.ServiceList](Names{
		GroupVersionResource: corev1.SchemeGroupVersion.WithResource("services"),
		Kind:                 "Service", Singular: "service", ShortNames: []string{"svc"}, Categories: []string{"all"},
	}, serviceForGateway)
	// EndpointSlice is the kind of EndpointSlices.
	EndpointSlice = Define[discoveryv1.EndpointSlice, discoveryv1.EndpointSliceList](Names{
		GroupVersionResource: discoveryv1.SchemeGroupVersion.WithResource("endpointslices"),
		Kind:                 "EndpointSlice", Singular: "endpointslice",
	}, endpointSliceForGateway)
	// PortGrant is the kind of PortGrants.
	PortGrant = Define[v1alpha1.PortGrant, v1alpha1.PortGrantList](Names{
		GroupVersionResource: v1alpha1.SchemeGroupVersion.WithResource("portgrants"),
		Kind:                 "PortGrant", Singular: "portgrant", ShortNames: []string{"pgrant"}, Categories: []string{"smartnat"}, ClusterScoped: true,
	}, portGrantForGateway).later()
	// Namespace is the kind of namespaces, whose labels PortGrants select.
	Namespace = Define[corev1.Namespace, corev1.NamespaceList](Names{
		GroupVersionResource: corev1.SchemeGroupVersion.WithResource("namespaces"),
		Kind:                 "Namespace", Singular: "namespace", ShortNames: []string{"ns"}, ClusterScoped: true,
	}, namespaceForGateway).later()

	all = []*Kind{Mapping, Service, EndpointSlice, PortGrant, Namespace}
)

// All returns the whole table.
func All() []*Kind { return slices.Clone(all) }

// Of returns the kind of an object, or nil if it is not in the table.
func Of(obj any) *Kind {
	for _, k := range all {
		if k.Is(obj) {
			return k
		}
	}
	return nil
}
