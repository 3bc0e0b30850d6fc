// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"sort"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
)

// kind holds the functions that differ between kinds.
type kind struct {
	// strip returns the part of an object that may leave the cluster, or false if the type is wrong.
	strip func(any) (Object, bool)
	// empty returns a new object to decode into.
	empty func() Object
	// service returns the Service that decides whether an object is visible, or none.
	service func(Object) types.NamespacedName
	// visible reports whether an object is visible now.
	visible func(*held) bool
	// index is called with the new Service (after) before an object is published, and then with the old one (before). The
	// other argument is none.
	index func(key, before, after types.NamespacedName)
}

// Resource is the part of a Cache that holds one kind.
type Resource struct {
	kind
	cache *Cache
	// known holds the stripped objects of the cluster, visible or not. served holds the visible ones.
	known  map[types.NamespacedName]*held
	served map[types.NamespacedName]*Entry
	// listed is the sorted list of served. It is built on first use and reset by each change.
	listed atomic.Pointer[[]*Entry]
	// events holds the latest changes, complete after horizon. Watchers read slices of it without a lock, so its elements
	// are never overwritten.
	events  []Event
	horizon Version
	synced  bool
	// changed is closed when there is a new event. news is set until then.
	changed chan struct{}
	news    bool
}

func (r *Resource) init(c *Cache, k kind) {
	r.kind, r.cache, r.horizon = k, c, c.version
	r.known = map[types.NamespacedName]*held{}
	r.served = map[types.NamespacedName]*Entry{}
	r.changed = make(chan struct{})
}

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

// Since returns the changes after a version, the version that they lead to, and a channel that is closed on the next
// change. It fails with ErrExpired if some of the changes are no longer in the history, or if this Cache never assigned
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

// News returns a channel that is closed on the next change.
func (r *Resource) News() <-chan struct{} {
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

// take replaces the known object of a key by now, or removes it if now is nil.
func (r *Resource) take(key types.NamespacedName, now *held) {
	var before, after types.NamespacedName
	if old := r.known[key]; old != nil {
		before = old.service
	}
	if now == nil {
		delete(r.known, key)
	} else {
		r.known[key], after = now, now.service
	}
	// Services and slices that a Mapping makes visible appear before it and disappear after it.
	if before != after {
		r.index(key, none, after)
	}
	r.settle(key)
	if before != after {
		r.index(key, before, none)
	}
}

// settle publishes the difference between the known and the served state of one object, if any.
func (r *Resource) settle(key types.NamespacedName) {
	now := r.known[key]
	shown := now != nil && r.visible(now)
	switch {
	case shown:
		r.unpack(now)
	case now != nil:
		r.pack(now)
	}
	before, was := r.served[key]
	switch {
	case shown && !was:
		r.publish(watch.Added, key, now.object)
	case !shown && was:
		r.publish(watch.Deleted, key, before.Object)
	case !shown && !was:
	case before.Object.GetUID() != now.object.GetUID():
		r.publish(watch.Deleted, key, before.Object)
		r.publish(watch.Added, key, now.object)
	case !sameContent(before.Object, now.object):
		r.publish(watch.Modified, key, now.object)
	}
}

func (r *Resource) publish(t watch.EventType, key types.NamespacedName, obj Object) {
	r.cache.version++
	r.news = true
	r.listed.Store(nil)
	entry, old := newEntry(obj, r.cache.version), r.served[key]
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
	event.Minor = t == watch.Modified && sameContent(forGateway(old.Object), forGateway(obj))
	r.events = append(r.events, event)
	if surplus := len(r.events) - r.cache.history; surplus > r.cache.history {
		r.horizon = r.events[surplus-1].Version
		r.events = append(make([]Event, 0, 2*r.cache.history), r.events[surplus:]...)
	}
}

// sameContent compares everything except the resource version, which is empty in known.
func sameContent(served, known Object) bool {
	served = shallowCopy(served)
	served.SetResourceVersion(known.GetResourceVersion())
	return equality.Semantic.DeepEqual(served, known)
}
