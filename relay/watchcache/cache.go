// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"sync"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/relay/filter"
)

// DefaultHistory is how many changes of each kind are kept at least for watchers.
const DefaultHistory = 1024

// Cache holds what is visible of the three kinds. Its Resources are filled through their Stores and read by watchers.
type Cache struct {
	mu sync.RWMutex
	// version is the last one that was given out.
	version Version
	history int
	synced  bool
	changed chan struct{}

	mappings, services, slices Resource
	// naming counts the valid Mappings that name a Service; backing holds the keys of its EndpointSlices.
	naming  map[types.NamespacedName]int
	backing map[types.NamespacedName]sets.Set[types.NamespacedName]
}

// New returns an empty Cache that counts from epoch and keeps so many changes of each kind.
func New(epoch Version, history int) *Cache {
	c := &Cache{
		version: epoch,
		history: history,
		changed: make(chan struct{}),
		naming:  map[types.NamespacedName]int{},
		backing: map[types.NamespacedName]sets.Set[types.NamespacedName]{},
	}
	c.mappings.init(c, kind{
		strip:   func(obj any) (Object, bool) { m, ok := obj.(*v1alpha1.Mapping); return strip(filter.Mapping, m), ok },
		visible: func(Object) bool { return true },
		index:   c.indexMapping,
	})
	c.services.init(c, kind{
		strip:   func(obj any) (Object, bool) { s, ok := obj.(*corev1.Service); return strip(filter.Service, s), ok },
		visible: func(obj Object) bool { return c.naming[keyOf(obj)] > 0 },
		index:   func(Object, Object) {},
	})
	c.slices.init(c, kind{
		strip: func(obj any) (Object, bool) {
			s, ok := obj.(*discoveryv1.EndpointSlice)
			return strip(filter.EndpointSlice, s), ok
		},
		visible: func(obj Object) bool {
			service, ok := filter.Backs(obj.(*discoveryv1.EndpointSlice))
			return ok && c.naming[service] > 0
		},
		index: c.indexSlice,
	})
	return c
}

// Mappings are all there are.
func (c *Cache) Mappings() *Resource { return &c.mappings }

// Services are those that a valid Mapping names.
func (c *Cache) Services() *Resource { return &c.services }

// EndpointSlices are those of Services that a valid Mapping names.
func (c *Cache) EndpointSlices() *Resource { return &c.slices }

// HasSynced says whether the Cache has seen the whole cluster. Before that it must not be read: what is missing in it
// would look deleted.
func (c *Cache) HasSynced() bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.synced
}

// indexMapping notes which Services are named, and shows or hides those for which that changed.
func (c *Cache) indexMapping(old, obj Object) {
	before, wasNamed := namedBy(old)
	after, isNamed := namedBy(obj)
	if before == after && wasNamed == isNamed {
		return
	}
	if isNamed {
		c.naming[after]++
		if c.naming[after] == 1 {
			c.settleService(after)
		}
	}
	if wasNamed {
		c.naming[before]--
		if c.naming[before] == 0 {
			delete(c.naming, before)
			c.settleService(before)
		}
	}
}

func (c *Cache) indexSlice(old, obj Object) {
	before, had := backs(old)
	after, has := backs(obj)
	if before == after && had == has {
		return
	}
	if had {
		c.backing[before].Delete(keyOf(old))
		if c.backing[before].Len() == 0 {
			delete(c.backing, before)
		}
	}
	if has {
		if c.backing[after] == nil {
			c.backing[after] = sets.New[types.NamespacedName]()
		}
		c.backing[after].Insert(keyOf(obj))
	}
}

func (c *Cache) settleService(service types.NamespacedName) {
	c.services.settle(service)
	for slice := range c.backing[service] {
		c.slices.settle(slice)
	}
}

// wake tells all watchers to read on.
func (c *Cache) wake() {
	close(c.changed)
	c.changed = make(chan struct{})
}

func namedBy(obj Object) (types.NamespacedName, bool) {
	if obj == nil {
		return types.NamespacedName{}, false
	}
	return filter.NamedBy(obj.(*v1alpha1.Mapping))
}

func backs(obj Object) (types.NamespacedName, bool) {
	if obj == nil {
		return types.NamespacedName{}, false
	}
	return filter.Backs(obj.(*discoveryv1.EndpointSlice))
}

func keyOf(obj Object) types.NamespacedName {
	return types.NamespacedName{Namespace: obj.GetNamespace(), Name: obj.GetName()}
}

// strip applies a strip function to what may be nil, when an object was not of the type that it should be.
func strip[T any, P interface {
	*T
	Object
}](f func(P) P, obj P) Object {
	if obj == nil {
		return nil
	}
	return f(obj)
}

// shallowCopy copies what is needed to give an object another resource version.
func shallowCopy(obj Object) Object {
	switch o := obj.(type) {
	case *v1alpha1.Mapping:
		c := *o
		return &c
	case *corev1.Service:
		c := *o
		return &c
	case *discoveryv1.EndpointSlice:
		c := *o
		return &c
	}
	return obj.DeepCopyObject().(Object)
}
