// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/relay/filter"
)

// DefaultHistory is the minimum number of changes of each kind that are kept for watchers.
const DefaultHistory = 1024

// Cache holds the visible objects of the three kinds. Reflectors fill its Resources through their Stores; watchers read
// them.
type Cache struct {
	mu sync.RWMutex
	// version is the last version assigned.
	version Version
	history int
	synced  bool

	mappings, services, slices Resource
	// naming counts the valid Mappings that name a Service. backing holds the keys of a Service's EndpointSlices.
	naming  map[types.NamespacedName]int
	backing map[types.NamespacedName][]types.NamespacedName
}

// New returns an empty Cache that numbers versions from epoch and keeps at least history changes of each kind.
func New(epoch Version, history int) *Cache {
	c := &Cache{
		version: epoch,
		history: history,
		naming:  map[types.NamespacedName]int{},
		backing: map[types.NamespacedName][]types.NamespacedName{},
	}
	c.mappings.init(c, kind{
		strip:   func(obj any) (Object, bool) { m, ok := obj.(*v1alpha1.Mapping); return strip(filter.Mapping, m), ok },
		empty:   func() Object { return &v1alpha1.Mapping{} },
		service: func(obj Object) types.NamespacedName { return someOf(filter.NamedBy(obj.(*v1alpha1.Mapping))) },
		visible: func(*held) bool { return true },
		index:   c.indexMapping,
	})
	c.services.init(c, kind{
		strip:   func(obj any) (Object, bool) { s, ok := obj.(*corev1.Service); return strip(filter.Service, s), ok },
		empty:   func() Object { return &corev1.Service{} },
		service: keyOf,
		visible: c.isNamed,
		index:   func(types.NamespacedName, types.NamespacedName, types.NamespacedName) {},
	})
	c.slices.init(c, kind{
		strip: func(obj any) (Object, bool) {
			s, ok := obj.(*discoveryv1.EndpointSlice)
			return strip(filter.EndpointSlice, s), ok
		},
		empty:   func() Object { return &discoveryv1.EndpointSlice{} },
		service: func(obj Object) types.NamespacedName { return someOf(filter.Backs(obj.(*discoveryv1.EndpointSlice))) },
		visible: c.isNamed,
		index:   c.indexSlice,
	})
	return c
}

// Mappings returns the Resource of all Mappings.
func (c *Cache) Mappings() *Resource { return &c.mappings }

// Services returns the Resource of the Services that a valid Mapping names.
func (c *Cache) Services() *Resource { return &c.services }

// EndpointSlices returns the Resource of the EndpointSlices that belong to a Service named by a valid Mapping.
func (c *Cache) EndpointSlices() *Resource { return &c.slices }

// HasSynced reports whether the Cache has received a full list of each kind. It must not be read before: objects that have
// not arrived yet would look deleted.
func (c *Cache) HasSynced() bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.synced
}

func (c *Cache) isNamed(h *held) bool { return c.naming[h.service] > 0 }

// indexMapping updates the set of named Services, and shows or hides the Services whose membership changed.
func (c *Cache) indexMapping(_, before, after types.NamespacedName) {
	if after != none {
		c.naming[after]++
		if c.naming[after] == 1 {
			c.settleService(after)
		}
	}
	if before != none {
		c.naming[before]--
		if c.naming[before] == 0 {
			delete(c.naming, before)
			c.settleService(before)
		}
	}
}

// indexSlice updates the EndpointSlices of a Service. Most Services have one or two.
func (c *Cache) indexSlice(key, before, after types.NamespacedName) {
	if before != none {
		c.backing[before] = slices.DeleteFunc(c.backing[before], func(k types.NamespacedName) bool { return k == key })
		if len(c.backing[before]) == 0 {
			delete(c.backing, before)
		}
	}
	if after != none {
		c.backing[after] = append(c.backing[after], key)
	}
}

func (c *Cache) settleService(service types.NamespacedName) {
	c.services.settle(service)
	for _, slice := range c.backing[service] {
		c.slices.settle(slice)
	}
}

// wake wakes the watchers of each kind with a new event.
func (c *Cache) wake() {
	for _, r := range []*Resource{&c.mappings, &c.services, &c.slices} {
		if r.news {
			close(r.changed)
			r.changed, r.news = make(chan struct{}), false
		}
	}
}

// none stands for no Service.
var none types.NamespacedName

func someOf(service types.NamespacedName, ok bool) types.NamespacedName {
	if !ok {
		return none
	}
	return service
}

func keyOf(obj Object) types.NamespacedName {
	return types.NamespacedName{Namespace: obj.GetNamespace(), Name: obj.GetName()}
}

// strip applies f, or returns nil if obj is nil because it has the wrong type.
func strip[T any, P interface {
	*T
	Object
}](f func(P) P, obj P) Object {
	if obj == nil {
		return nil
	}
	return f(obj)
}
