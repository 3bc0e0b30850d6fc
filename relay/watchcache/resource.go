// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"slices"
	"sort"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/smartnat/smartnat/apis/kinds"
	"github.com/smartnat/smartnat/relay/filter"
)

// clusterSide is what the cluster has of one kind. All Portions share it.
type clusterSide struct {
	kind filter.Kind
	// number is the index of the kind in the table.
	number int
	// known holds the stripped objects of the cluster, visible or not.
	known  map[types.NamespacedName]*storedObject
	synced bool
	// changed is closed when there is a new event in any Portion. hasNews is set until then.
	changed chan struct{}
	hasNews bool
}

// Resource is the part of a Portion that holds one kind.
type Resource struct {
	*clusterSide
	cache   *Cache
	portion *Portion
	// served holds the visible objects.
	served map[types.NamespacedName]*Entry
	// listed is the sorted list of served. It is built on first use and reset by each change.
	listed atomic.Pointer[[]*Entry]
	// events holds the latest changes, complete after horizon. Watchers read slices of it without a lock, so its elements
	// are never overwritten.
	events  []Event
	horizon Version
}

func newResource(p *Portion, of *clusterSide) *Resource {
	return &Resource{
		clusterSide: of, cache: p.cache, portion: p, horizon: p.cache.version, served: map[types.NamespacedName]*Entry{},
	}
}

// Kind returns the kind of the objects.
func (r *Resource) Kind() *kinds.Kind { return r.kind.Kind }

// Get returns the visible object of that name, or nil.
func (r *Resource) Get(namespace, name string) *Entry {
	r.cache.mu.RLock()
	defer r.cache.mu.RUnlock()
	return r.served[types.NamespacedName{Namespace: namespace, Name: name}]
}

// Len returns the number of visible objects.
func (r *Resource) Len() int {
	r.cache.mu.RLock()
	defer r.cache.mu.RUnlock()
	return len(r.served)
}

// List returns the visible objects, sorted by namespace and name, and the version of that state. Callers must not modify
// the list: all callers share it until the next change.
func (r *Resource) List() ([]*Entry, Version) {
	r.cache.mu.RLock()
	defer r.cache.mu.RUnlock()
	if listed := r.listed.Load(); listed != nil {
		return *listed, r.cache.version
	}
	entries := make([]*Entry, 0, len(r.served))
	for _, e := range r.served {
		entries = append(entries, e)
	}
	sort.Slice(entries, func(i, j int) bool {
		a, b := keyOf(entries[i].Object), keyOf(entries[j].Object)
		return a.Namespace < b.Namespace || a.Namespace == b.Namespace && a.Name < b.Name
	})
	r.listed.Store(&entries)
	return entries, r.cache.version
}

// Known returns all objects of the cluster, also those that are not visible. They are only for the relay itself.
func (r *Resource) Known() []Object {
	r.cache.mu.RLock()
	defer r.cache.mu.RUnlock()
	all := make([]Object, 0, len(r.known))
	for _, s := range r.known {
		object := s.object
		if object == nil {
			object, _ = r.read(s.packed)
		}
		all = append(all, object)
	}
	return all
}

// Since returns the changes after a version, the version that they lead to, and the channel of Changed. It fails with ErrExpired if some of the changes are no longer in the history, or if this Cache never assigned
// the version.
func (r *Resource) Since(version Version) ([]Event, Version, <-chan struct{}, error) {
	r.cache.mu.RLock()
	defer r.cache.mu.RUnlock()
	if version < r.horizon || version > r.cache.version {
		return nil, 0, nil, ErrExpired
	}
	first := sort.Search(len(r.events), func(i int) bool { return r.events[i].Version > version })
	return r.events[first:len(r.events):len(r.events)], r.cache.version, r.changed, nil
}

// Changed returns a channel that is closed on the next change of the kind, in any Portion.
func (r *Resource) Changed() <-chan struct{} {
	r.cache.mu.RLock()
	defer r.cache.mu.RUnlock()
	return r.changed
}

// Knows returns ErrExpired unless this Cache assigned the version.
func (c *Cache) Knows(version Version) error {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if version>>counterBits != c.version>>counterBits || version > c.version {
		return ErrExpired
	}
	return nil
}

// publishDiff publishes the difference between the known and the served state of one object, if any.
func (r *Resource) publishDiff(key types.NamespacedName) {
	now := r.known[key]
	shown := now != nil && r.portion.index.IsVisible(r.number, now.object, now.service)
	switch {
	case shown:
		r.unpack(now)
	case now != nil && r.portion == r.cache.Portion:
		r.pack(now)
	}
	before, was := r.served[key]
	switch {
	case shown && !was:
		r.publish(watch.Added, key, now.object, now.nodes)
	case !shown && was:
		r.publish(watch.Deleted, key, before.Object, before.nodes)
	case !shown && !was:
	case before.Object.GetUID() != now.object.GetUID():
		r.publish(watch.Deleted, key, before.Object, before.nodes)
		r.publish(watch.Added, key, now.object, now.nodes)
	case !slices.Equal(before.nodes, now.nodes) || !r.kind.Same(before.Object, now.object):
		r.publish(watch.Modified, key, now.object, now.nodes)
	}
}

func (r *Resource) publish(t watch.EventType, key types.NamespacedName, obj Object, nodes []string) {
	r.cache.version++
	r.hasNews = true
	r.listed.Store(nil)
	entry, old := newEntry(r.kind.Kind, obj, nodes, r.cache.version), r.served[key]
	if t == watch.Deleted {
		delete(r.served, key)
	} else {
		r.served[key] = entry
	}
	if !r.cache.synced {
		// No client knows a version before the sync.
		r.horizon = r.cache.version
		return
	}
	event := Event{Type: t, Version: entry.Version, Object: entry, Old: old, At: time.Now()}
	event.Minor = t == watch.Modified && slices.Equal(old.nodes, nodes) && r.kind.Same(r.kind.ForGateway(old.Object), r.kind.ForGateway(obj))
	r.events = append(r.events, event)
	if surplus := len(r.events) - r.cache.history; surplus > r.cache.history {
		r.horizon = r.events[surplus-1].Version
		r.events = append(make([]Event, 0, 2*r.cache.history), r.events[surplus:]...)
	}
}
