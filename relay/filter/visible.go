// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package filter

import (
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/apis/smartnat/validation"
)

// Cluster holds the objects of a cluster that may be visible outside.
type Cluster struct {
	Mappings       []*v1alpha1.Mapping
	Services       []*corev1.Service
	EndpointSlices []*discoveryv1.EndpointSlice
}

// Visible returns the objects that leave a cluster, stripped: all Mappings, so that their authors can see their status,
// and the Services and EndpointSlices that a valid Mapping names.
func Visible(in Cluster) Cluster {
	var out Cluster
	named := map[types.NamespacedName]bool{}
	for _, m := range in.Mappings {
		out.Mappings = append(out.Mappings, Mapping(m))
		if service, ok := NamedBy(m); ok {
			named[service] = true
		}
	}
	for _, s := range in.Services {
		if named[types.NamespacedName{Namespace: s.Namespace, Name: s.Name}] {
			out.Services = append(out.Services, Service(s))
		}
	}
	for _, s := range in.EndpointSlices {
		if service, ok := Backs(s); ok && named[service] {
			out.EndpointSlices = append(out.EndpointSlices, EndpointSlice(s))
		}
	}
	return out
}

// NamedBy returns the Service that a Mapping makes visible. An invalid Mapping makes none visible.
func NamedBy(m *v1alpha1.Mapping) (types.NamespacedName, bool) {
	if len(validation.ValidateMapping(m)) > 0 {
		return types.NamespacedName{}, false
	}
	return types.NamespacedName{Namespace: m.Namespace, Name: m.Spec.ServiceName}, true
}

// Backs returns the Service that an EndpointSlice belongs to.
func Backs(s *discoveryv1.EndpointSlice) (types.NamespacedName, bool) {
	name := s.Labels[discoveryv1.LabelServiceName]
	return types.NamespacedName{Namespace: s.Namespace, Name: name}, name != ""
}
