// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package calc

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
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
	gone, come := differ(o.last.Services, now.Services)
	for _, s := range gone {
		key := serviceKey{Namespace: s.Namespace, Name: s.Name}
		changed[key] = true
		delete(o.services, key)
	}
	for _, s := range come {
		key := serviceKey{Namespace: s.Namespace, Name: s.Name}
		changed[key] = true
		o.services[key] = s
	}
	goneSlices, comeSlices := differ(o.last.EndpointSlices, now.EndpointSlices)
	for _, s := range goneSlices {
		key := serviceOf(s)
		changed[key] = true
		o.slices[key] = slices.DeleteFunc(o.slices[key], func(other *discoveryv1.EndpointSlice) bool { return other == s })
		if len(o.slices[key]) == 0 {
			delete(o.slices, key)
		}
	}
	for _, s := range comeSlices {
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

// differ returns removed and added objects. It is cheap if the lists have the same order.
func differ[T any](before, now []*T) (gone, come []*T) {
	if len(before) == len(now) && (len(now) == 0 || &before[0] == &now[0]) {
		return nil, nil
	}
	for len(before) > 0 && len(now) > 0 && before[0] == now[0] {
		before, now = before[1:], now[1:]
	}
	for len(before) > 0 && len(now) > 0 && before[len(before)-1] == now[len(now)-1] {
		before, now = before[:len(before)-1], now[:len(now)-1]
	}
	if len(before) == 0 || len(now) == 0 {
		return before, now
	}
	left := make(map[*T]int, len(before))
	for _, object := range before {
		left[object]++
	}
	for _, object := range now {
		if left[object] > 0 {
			left[object]--
		} else {
			come = append(come, object)
		}
	}
	for _, object := range before {
		if left[object] > 0 {
			left[object]--
			gone = append(gone, object)
		}
	}
	return gone, come
}
