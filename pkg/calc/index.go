// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package calc

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/pkg/delta"
	"github.com/smartnat/smartnat/pkg/objects"
)

type serviceKey = types.NamespacedName

// serviceIndex holds the Services and their slices by the Service's name.
type serviceIndex struct {
	last     objects.Snapshot
	services map[serviceKey]*corev1.Service
	slices   map[serviceKey][]*discoveryv1.EndpointSlice
}

// update stores the Snapshot, and returns the Services that changed, including those whose slices changed.
func (o *serviceIndex) update(now objects.Snapshot) map[serviceKey]bool {
	changed := map[serviceKey]bool{}
	serviceChange := delta.Diff(o.last.Services, now.Services)
	for _, s := range serviceChange.Removed {
		key := serviceKey{Namespace: s.Namespace, Name: s.Name}
		changed[key] = true
		delete(o.services, key)
	}
	for _, s := range serviceChange.Added {
		key := serviceKey{Namespace: s.Namespace, Name: s.Name}
		changed[key] = true
		o.services[key] = s
	}
	sliceChange := delta.Diff(o.last.EndpointSlices, now.EndpointSlices)
	for _, s := range sliceChange.Removed {
		key := serviceOf(s)
		changed[key] = true
		o.slices[key] = slices.DeleteFunc(o.slices[key], func(other *discoveryv1.EndpointSlice) bool { return other == s })
		if len(o.slices[key]) == 0 {
			delete(o.slices, key)
		}
	}
	for _, s := range sliceChange.Added {
		key := serviceOf(s)
		changed[key] = true
		o.slices[key] = append(o.slices[key], s)
	}
	o.last.Services, o.last.EndpointSlices = now.Services, now.EndpointSlices
	return changed
}

func serviceNamedBy(m *v1alpha1.Mapping) serviceKey {
	return serviceKey{Namespace: m.Namespace, Name: m.Spec.ServiceName}
}

func serviceOf(s *discoveryv1.EndpointSlice) serviceKey {
	return serviceKey{Namespace: s.Namespace, Name: s.Labels[discoveryv1.LabelServiceName]}
}
