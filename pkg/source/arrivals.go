// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package source

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
)

// arrivalTimeout bounds how long a Mapping waits for its Service and endpoints. Each kind has its own watch, so a Mapping
// may arrive before its Service, which a relay shows because of that Mapping. Normally they are milliseconds apart.
const arrivalTimeout = time.Second

// arrival is a Mapping that waits for its Service or endpoints until the timer fires.
type arrival struct {
	mapping *v1alpha1.Mapping
	timer   *time.Timer
}

// arrive stores a Mapping, or holds it back while its Service or endpoints are missing. It returns false if the Mapping
// waits. A Mapping that named the same Service before does not wait again, because the Service does not exist.
func (c *cluster) arrive(m *v1alpha1.Mapping) bool {
	c.arriving.Lock()
	defer c.arriving.Unlock()
	key := types.NamespacedName{Namespace: m.Namespace, Name: m.Name}
	waiting, waits := c.arrivals[key]
	if !c.synced.Load() || c.store.complete(m) || !waits && c.store.namesTheSame(m) {
		c.depart(key)
		c.store.set(m)
		return true
	}
	if waits {
		waiting.mapping = m
		return false
	}
	waiting = &arrival{mapping: m}
	waiting.timer = time.AfterFunc(arrivalTimeout, func() {
		c.arriving.Lock()
		late := c.arrivals[key] == waiting
		if late {
			delete(c.arrivals, key)
			c.store.set(waiting.mapping)
		}
		c.arriving.Unlock()
		if late {
			c.event()
		}
	})
	c.arrivals[key] = waiting
	return false
}

// complete stores the Mappings that waited for a Service after it or its endpoints have arrived.
func (c *cluster) complete(namespace, service string) {
	c.arriving.Lock()
	defer c.arriving.Unlock()
	for key, waiting := range c.arrivals {
		if m := waiting.mapping; m.Namespace == namespace && m.Spec.ServiceName == service && c.store.complete(m) {
			c.depart(key)
			c.store.set(waiting.mapping)
		}
	}
}

// depart ends the wait of a Mapping. The caller holds c.arriving.
func (c *cluster) depart(key types.NamespacedName) {
	if waiting, waits := c.arrivals[key]; waits {
		waiting.timer.Stop()
		delete(c.arrivals, key)
	}
}

// complete reports whether the Service of a Mapping is known and, in mode endpoints, one of its EndpointSlices.
func (s *store) complete(m *v1alpha1.Mapping) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, found := s.services.find(&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: m.Namespace, Name: m.Spec.ServiceName}}); !found {
		return false
	}
	if m.Spec.Mode != v1alpha1.ModeEndpoints {
		return true
	}
	first, _ := s.endpointSlices.find(&discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: m.Namespace}})
	for _, slice := range s.endpointSlices.objects[first:] {
		if slice.Namespace != m.Namespace {
			break
		}
		if slice.Labels[discoveryv1.LabelServiceName] == m.Spec.ServiceName {
			return true
		}
	}
	return false
}

// namesTheSame reports whether the known version of a Mapping names the same Service in the same mode.
func (s *store) namesTheSame(m *v1alpha1.Mapping) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	i, found := s.mappings.find(m)
	return found && s.mappings.objects[i].Spec.ServiceName == m.Spec.ServiceName && s.mappings.objects[i].Spec.Mode == m.Spec.Mode
}
