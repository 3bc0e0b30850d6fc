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

// DefaultHistory is how many changes of each kind are kept at least for watchers.
const DefaultHistory = 1024

// Cache holds what is visible of the three kinds. Its Resources are filled through their Stores and read by watchers.
type Cache struct {
	mu sync.RWMutex
	// version is the last one that was given out.
	version Version
	history int
	synced  bool

	mappings, services, slices Resource
	// naming counts the valid Mappings that name a Service; backing holds the keys of its EndpointSlices.
	naming  map[types.NamespacedName]int
	backing map[types.NamespacedName][]types.NamespacedName
}

// New returns an empty Cache that counts from epoch and keeps so many changes of each kind.
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

func (c *Cache) isNamed(h *held) bool { return c.naming[h.service] > 0 }

// indexMapping notes which Services are named, and shows or hides those for which that changed.
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

// indexSlice notes which EndpointSlices a Service has: one or two, as a rule.
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

// wake tells the watchers of those kinds to read on of which something was published.
func (c *Cache) wake() {
	for _, r := range []*Resource{&c.mappings, &c.services, &c.slices} {
		if r.news {
			close(r.changed)
			r.changed, r.news = make(chan struct{}), false
		}
	}
}

// none is the name of no Service.
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
