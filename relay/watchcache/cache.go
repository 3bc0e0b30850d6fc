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
	table   []filter.Kind
	// clusters has what the cluster has of each kind, in the order of the table.
	clusters []*clusterSide
	// Portion is all that leaves the cluster. portions are the Portions that show less, in the order of their creation.
	*Portion
	portions []*Portion
	gateways gateways
}

// New returns an empty Cache that numbers versions from epoch and keeps at least history changes of each kind.
func New(epoch Version, history int) *Cache { return NewOf(epoch, history, filter.Kinds()) }

// NewOf is New for another table of kinds.
func NewOf(epoch Version, history int, table []filter.Kind) *Cache {
	c := &Cache{version: epoch, history: history, table: table}
	for number, kind := range table {
		c.clusters = append(c.clusters, &clusterSide{kind: kind, number: number, known: map[types.NamespacedName]*storedObject{}, changed: make(chan struct{})})
	}
	c.Portion = newPortion(c, filter.NewIndex(table))
	return c
}

// Mappings returns the Resource of Mappings.
func (p *Portion) Mappings() *Resource { return p.Of(kinds.Mapping) }

// Services returns the Resource of Services.
func (p *Portion) Services() *Resource { return p.Of(kinds.Service) }

// EndpointSlices returns the Resource of EndpointSlices.
func (p *Portion) EndpointSlices() *Resource { return p.Of(kinds.EndpointSlice) }

// PortGrants returns the Resource of PortGrants.
func (p *Portion) PortGrants() *Resource { return p.Of(kinds.PortGrant) }

// Namespaces returns the Resource of namespaces.
func (p *Portion) Namespaces() *Resource { return p.Of(kinds.Namespace) }

// HasSynced reports whether the Cache has received a full list of each kind, and of the gateways if ExpectGateways was called. It must not be read before: objects that have
// not arrived yet would look deleted.
func (c *Cache) HasSynced() bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.synced
}

// isComplete reports whether each kind has been listed.
func (c *Cache) isComplete() bool {
	for _, of := range c.clusters {
		if !of.synced {
			return false
		}
	}
	return !c.gateways.expected || c.gateways.listed
}

// take replaces the known object of a key by now, or removes it if now is nil.
func (c *Cache) take(of *clusterSide, key types.NamespacedName, now *storedObject) {
	old := of.known[key]
	if now == nil {
		delete(of.known, key)
	} else {
		of.known[key] = now
	}
	// The first Portion shows at least what the others show, so it alone packs what is not visible.
	c.Portion.take(of.number, key, old, now)
	for _, p := range c.portions {
		p.take(of.number, key, old, now)
	}
}

// wake wakes the watchers of each kind with a new event.
func (c *Cache) wake() {
	for _, of := range c.clusters {
		if of.hasNews {
			close(of.changed)
			of.changed, of.hasNews = make(chan struct{}), false
		}
	}
}

func keyOf(obj Object) types.NamespacedName {
	return types.NamespacedName{Namespace: obj.GetNamespace(), Name: obj.GetName()}
}
