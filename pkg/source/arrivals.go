// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package source

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/smartnat/smartnat/apis/kinds"
	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/pkg/objects"
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
	if !c.synced.Load() || isComplete(&c.store, m) || !waits && namesTheSame(&c.store, m) {
		c.depart(key)
		c.store.Set(m)
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
			c.store.Set(waiting.mapping)
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
func (c *cluster) complete(service types.NamespacedName) {
	c.arriving.Lock()
	defer c.arriving.Unlock()
	for key, waiting := range c.arrivals {
		if m := waiting.mapping; m.Namespace == service.Namespace && m.Spec.ServiceName == service.Name && isComplete(&c.store, m) {
			c.depart(key)
			c.store.Set(waiting.mapping)
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

// awaitedOf returns the Service whose Mappings may have waited for an object, if any.
func awaitedOf(object kinds.Object) (types.NamespacedName, bool) {
	switch o := object.(type) {
	case *corev1.Service:
		return types.NamespacedName{Namespace: o.Namespace, Name: o.Name}, true
	case *discoveryv1.EndpointSlice:
		return types.NamespacedName{Namespace: o.Namespace, Name: o.Labels[discoveryv1.LabelServiceName]}, true
	}
	return types.NamespacedName{}, false
}

// isComplete reports whether the Service of a Mapping is known and, in mode endpoints, one of its EndpointSlices.
func isComplete(s *objects.Store, m *v1alpha1.Mapping) (complete bool) {
	s.Read(func(now objects.Snapshot) {
		if _, complete = objects.Find(now.Services, m.Namespace, m.Spec.ServiceName); !complete || m.Spec.Mode != v1alpha1.ModeEndpoints {
			return
		}
		first, _ := objects.Find(now.EndpointSlices, m.Namespace, "")
		for _, slice := range now.EndpointSlices[first:] {
			if complete = slice.Namespace == m.Namespace && slice.Labels[discoveryv1.LabelServiceName] == m.Spec.ServiceName; complete || slice.Namespace != m.Namespace {
				return
			}
		}
		complete = false
	})
	return complete
}

// namesTheSame reports whether the known version of a Mapping names the same Service in the same mode.
func namesTheSame(s *objects.Store, m *v1alpha1.Mapping) (same bool) {
	s.Read(func(now objects.Snapshot) {
		i, found := objects.Find(now.Mappings, m.Namespace, m.Name)
		same = found && now.Mappings[i].Spec.ServiceName == m.Spec.ServiceName && now.Mappings[i].Spec.Mode == m.Spec.Mode
	})
	return same
}
