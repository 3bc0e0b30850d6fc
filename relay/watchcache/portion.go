// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"maps"
	"slices"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/smartnat/smartnat/apis/kinds"
	"github.com/smartnat/smartnat/relay/filter"
)

// Portion holds the objects of all kinds that the clients of one filter.Scope see. All Portions of a Cache share its versions.
type Portion struct {
	cache *Cache
	index *filter.Index
	// resources are in the order of the table.
	resources []*Resource
}

func newPortion(c *Cache, index *filter.Index) *Portion {
	p := &Portion{cache: c, index: index}
	for _, of := range c.clusters {
		p.resources = append(p.resources, newResource(p, of))
	}
	return p
}

// copied returns a Portion that shows what p shows, with the same history: a watcher of p can go on with it.
func (p *Portion) copied() *Portion {
	c := newPortion(p.cache, p.index.Copied())
	for i, r := range p.resources {
		c.resources[i].served, c.resources[i].horizon = maps.Clone(r.served), r.horizon
		c.resources[i].events = slices.Clone(r.events)
	}
	return c
}

// Resources returns the Resource of each kind.
func (p *Portion) Resources() []*Resource { return p.resources }

// Of returns the Resource of a kind, or nil if the kind is not in the table.
func (p *Portion) Of(kind *kinds.Kind) *Resource {
	for _, r := range p.resources {
		if r.kind.Kind == kind {
			return r
		}
	}
	return nil
}

// take publishes what a change of one object changes here. old and now are nil if there is none.
func (p *Portion) take(kind int, key types.NamespacedName, old, now *storedObject) {
	p.move(kind, key, p.refers(kind, old), p.refers(kind, now))
}

// move publishes one object and those that it shows, when it refers to another Service than before.
func (p *Portion) move(kind int, key, before, after types.NamespacedName) {
	// Objects that a Mapping makes visible appear before it and disappear after it.
	ref := filter.Ref{Kind: kind, Key: key}
	if before != after {
		p.publish(p.index.Add(ref, after))
	}
	p.resources[kind].publishDiff(key)
	if before != after {
		p.publish(p.index.Remove(ref, before))
	}
}

func (p *Portion) refers(kind int, s *storedObject) types.NamespacedName {
	if s == nil {
		return types.NamespacedName{}
	}
	return p.index.Refers(kind, s.object, s.service)
}

// publish publishes objects whose visibility the index changed.
func (p *Portion) publish(refs []filter.Ref) {
	for _, ref := range refs {
		p.resources[ref.Kind].publishDiff(ref.Key)
	}
}

// setScope publishes the difference between two scopes: what comes is added, what goes is deleted.
func (p *Portion) setScope(scope filter.Scope) {
	from := p.index.Scope()
	if from.Equal(scope) {
		return
	}
	for kind, of := range p.cache.clusters {
		if of.kind.Rule != filter.Always {
			continue
		}
		for key, object := range of.known {
			p.index.SetScope(from)
			before := p.refers(kind, object)
			p.index.SetScope(scope)
			p.move(kind, key, before, p.refers(kind, object))
		}
	}
	p.index.SetScope(scope) // without any object
	for _, r := range p.resources {
		r.redact()
	}
}

// redact leaves nothing in the history that a client may not see now: of each object that is visible its present state, and of others
// the name, if they were deleted. Watches go on with it.
func (r *Resource) redact() {
	var kept []Event
	for _, e := range r.events {
		switch {
		case e.Type == watch.Deleted:
			e.Object = newEntry(r.kind.Kind, nameOf(r.kind.Kind, e.Object.Object), nil, e.Version)
		case r.served[keyOf(e.Object.Object)] != e.Object:
			continue
		default:
			e.Minor = false // since the changes before it are no longer there
		}
		kept = append(kept, e)
	}
	r.events = kept
}

// nameOf returns an object with nothing but the identity of another.
func nameOf(kind *kinds.Kind, of Object) Object {
	name := kind.New()
	name.SetNamespace(of.GetNamespace())
	name.SetName(of.GetName())
	name.SetUID(of.GetUID())
	name.GetObjectKind().SetGroupVersionKind(of.GetObjectKind().GroupVersionKind())
	return name
}

// gateways are the gateways whose Scope is known, by name.
type gateways struct {
	// expected is set if clients wait for the first list of gateways, and listed once it arrived.
	expected, listed bool
	byName           map[string]*enrollment
}

// enrollment is what one gateway sees.
type enrollment struct {
	portion *Portion
	// gone is set once the gateway is no longer enrolled.
	gone bool
	// nodes is set if endpoints come with their nodes, and nodesSince is the version at which that changed, or 0.
	nodes      bool
	nodesSince Version
}

// ExpectGateways makes HasSynced wait for the first SetGateways. Before, or without, it, all gateways see everything.
func (c *Cache) ExpectGateways() { c.gateways.expected = true }

// SetGateways replaces all gateways.
func (c *Cache) SetGateways(scopes map[string]filter.Scope) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for name := range c.gateways.byName {
		if _, enrolled := scopes[name]; !enrolled {
			c.remove(name)
		}
	}
	for name, scope := range scopes {
		c.set(name, scope)
	}
	c.gateways.listed = true
	c.synced = c.isComplete()
	c.wake()
}

// SetGateway sets what a gateway sees. Its watches get what leaves their view as deleted, and what enters it as added.
func (c *Cache) SetGateway(name string, scope filter.Scope) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.set(name, scope)
	c.wake()
}

// RemoveGateway removes a gateway, which then has no Portion.
func (c *Cache) RemoveGateway(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.remove(name)
	c.wake()
}

func (c *Cache) set(name string, scope filter.Scope) {
	if c.gateways.byName == nil {
		c.gateways.byName = map[string]*enrollment{}
	}
	e := c.gateways.byName[name]
	switch {
	case e == nil && scope.IsEverything():
		e = &enrollment{portion: c.Portion}
	case e == nil:
		// The horizon of a new Portion is now, so that versions from before are expired.
		e = &enrollment{portion: newPortion(c, c.index.Narrowed())}
		c.portions = append(c.portions, e.portion)
	case e.portion == c.Portion && !scope.IsEverything():
		e.portion = c.copied()
		c.portions = append(c.portions, e.portion)
	}
	c.gateways.byName[name], e.gone = e, false
	if e.portion != c.Portion {
		e.portion.setScope(scope)
	}
	if e.nodes != scope.ShowsNodes() {
		c.version++ // so that no client is up to date
		e.nodes, e.nodesSince = scope.ShowsNodes(), c.version
	}
	c.wakeAll()
}

// remove keeps a Portion that is not the Cache's, empty: if the gateway comes back, its old versions must lead to what it sees then.
func (c *Cache) remove(name string) {
	e := c.gateways.byName[name]
	if e == nil {
		return
	}
	e.gone = true
	if e.portion != c.Portion {
		e.portion.setScope(filter.Scope{})
	}
	c.wakeAll()
}

// wakeAll wakes all watchers, because they may have another Portion now.
func (c *Cache) wakeAll() {
	for _, of := range c.clusters {
		of.hasNews = true
	}
}

// NodesFor reports whether a gateway gets the nodes of endpoints, and the version from which on that is so: it must list again what it
// knows from an earlier one.
func (c *Cache) NodesFor(gateway string) (shown bool, since Version) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	e := c.gateways.byName[gateway]
	if e == nil || e.gone {
		return false, 0
	}
	return e.nodes, e.nodesSince
}

// PortionOf returns what a gateway sees, or false if the Cache expects gateways and does not know this one.
func (c *Cache) PortionOf(gateway string) (*Portion, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	e := c.gateways.byName[gateway]
	switch {
	case !c.gateways.expected:
		return c.Portion, true
	case e == nil || e.gone:
		return nil, false
	}
	return e.portion, true
}
