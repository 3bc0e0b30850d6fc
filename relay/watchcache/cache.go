// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"sync"

	"k8s.io/apimachinery/pkg/types"

	"github.com/smartnat/smartnat/apis/kinds"
	"github.com/smartnat/smartnat/relay/filter"
)

// DefaultHistory is the minimum number of changes of each kind that are kept for watchers.
const DefaultHistory = 1024

// Cache holds the visible objects of all kinds. Reflectors fill its Resources through their Stores; watchers read them.
type Cache struct {
	mu sync.RWMutex
	// version is the last version assigned.
	version Version
	history int
	synced  bool
	// resources are in the order of the table; index numbers kinds by it.
	resources []*Resource
	index     *filter.Index
}

// New returns an empty Cache that numbers versions from epoch and keeps at least history changes of each kind.
func New(epoch Version, history int) *Cache { return NewOf(epoch, history, filter.Kinds()) }

// NewOf is New for another table of kinds.
func NewOf(epoch Version, history int, table []filter.Kind) *Cache {
	c := &Cache{version: epoch, history: history, index: filter.NewIndex(table)}
	for number, kind := range table {
		c.resources = append(c.resources, newResource(c, number, kind))
	}
	return c
}

// Resources returns the Resource of each kind.
func (c *Cache) Resources() []*Resource { return c.resources }

// Of returns the Resource of a kind, or nil if the kind is not in the table.
func (c *Cache) Of(kind *kinds.Kind) *Resource {
	for _, r := range c.resources {
		if r.kind.Kind == kind {
			return r
		}
	}
	return nil
}

// Mappings returns the Resource of Mappings.
func (c *Cache) Mappings() *Resource { return c.Of(kinds.Mapping) }

// Services returns the Resource of Services.
func (c *Cache) Services() *Resource { return c.Of(kinds.Service) }

// EndpointSlices returns the Resource of EndpointSlices.
func (c *Cache) EndpointSlices() *Resource { return c.Of(kinds.EndpointSlice) }

// PortGrants returns the Resource of PortGrants.
func (c *Cache) PortGrants() *Resource { return c.Of(kinds.PortGrant) }

// Namespaces returns the Resource of namespaces.
func (c *Cache) Namespaces() *Resource { return c.Of(kinds.Namespace) }

// HasSynced reports whether the Cache has received a full list of each kind. It must not be read before: objects that have
// not arrived yet would look deleted.
func (c *Cache) HasSynced() bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.synced
}

// isComplete reports whether each kind has been listed.
func (c *Cache) isComplete() bool {
	for _, r := range c.resources {
		if !r.synced {
			return false
		}
	}
	return true
}

// publish publishes objects whose visibility the index changed.
func (c *Cache) publish(refs []filter.Ref) {
	for _, ref := range refs {
		c.resources[ref.Kind].publishDiff(ref.Key)
	}
}

// wake wakes the watchers of each kind with a new event.
func (c *Cache) wake() {
	for _, r := range c.resources {
		if r.hasNews {
			close(r.changed)
			r.changed, r.hasNews = make(chan struct{}), false
		}
	}
}

func keyOf(obj Object) types.NamespacedName {
	return types.NamespacedName{Namespace: obj.GetNamespace(), Name: obj.GetName()}
}
