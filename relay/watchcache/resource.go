// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"sort"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
)

// kind is what differs between the kinds.
type kind struct {
	// strip turns an object of the cluster into what may leave it; false when it is of another type.
	strip func(any) (Object, bool)
	// visible says whether a stripped object is to be seen at the moment.
	visible func(Object) bool
	// index is told what an object was and is, either nil, after it was taken in.
	index func(old, obj Object)
}

// Resource is the Cache's view of one kind.
type Resource struct {
	kind
	cache *Cache
	// known are the stripped objects of the cluster, visible or not; served are those that are visible.
	known  map[types.NamespacedName]Object
	served map[types.NamespacedName]*Entry
	// events are the latest changes; all those after horizon are there. Watchers read parts of it without a lock, so
	// what is in it is never overwritten.
	events  []Event
	horizon Version
	synced  bool
}

func (r *Resource) init(c *Cache, k kind) {
	r.kind, r.cache, r.horizon = k, c, c.version
	r.known = map[types.NamespacedName]Object{}
	r.served = map[types.NamespacedName]*Entry{}
}

// Get returns an object, or nil.
func (r *Resource) Get(namespace, name string) *Entry {
	r.cache.mu.RLock()
	defer r.cache.mu.RUnlock()
	return r.served[types.NamespacedName{Namespace: namespace, Name: name}]
}

// List returns what is served, in the order of the keys, and the version that it is the state of.
func (r *Resource) List() ([]*Entry, Version) {
	r.cache.mu.RLock()
	entries := make([]*Entry, 0, len(r.served))
	for _, e := range r.served {
		entries = append(entries, e)
	}
	version := r.cache.version
	r.cache.mu.RUnlock()
	sort.Slice(entries, func(i, j int) bool {
		a, b := keyOf(entries[i].Object), keyOf(entries[j].Object)
		return a.Namespace < b.Namespace || a.Namespace == b.Namespace && a.Name < b.Name
	})
	return entries, version
}

// Since returns the changes after a version, the version that they lead to, and a channel that is closed when there are
// more. It fails with ErrExpired when some of them are not known any more, or the version was never given out here.
func (r *Resource) Since(version Version) ([]Event, Version, <-chan struct{}, error) {
	r.cache.mu.RLock()
	defer r.cache.mu.RUnlock()
	if version < r.horizon || version > r.cache.version {
		return nil, 0, nil, ErrExpired
	}
	first := sort.Search(len(r.events), func(i int) bool { return r.events[i].Version > version })
	return r.events[first:len(r.events):len(r.events)], r.cache.version, r.cache.changed, nil
}

// Knows fails with ErrExpired unless a version was given out by this Cache.
func (c *Cache) Knows(version Version) error {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if version>>counterBits != c.version>>counterBits || version > c.version {
		return ErrExpired
	}
	return nil
}

// take puts a stripped object, or nil for none, in the place of what was known under its key.
func (r *Resource) take(key types.NamespacedName, obj Object) {
	old, had := r.known[key]
	if !had {
		old = nil
	}
	if obj == nil {
		delete(r.known, key)
	} else {
		r.known[key] = obj
	}
	r.index(old, obj)
	r.settle(key)
}

// settle publishes what changed for watchers of one object, if anything did.
func (r *Resource) settle(key types.NamespacedName) {
	now, known := r.known[key]
	shown := known && r.visible(now)
	before, was := r.served[key]
	switch {
	case shown && !was:
		r.publish(watch.Added, key, now)
	case !shown && was:
		r.publish(watch.Deleted, key, before.Object)
	case !shown && !was:
	case before.Object.GetUID() != now.GetUID():
		r.publish(watch.Deleted, key, before.Object)
		r.publish(watch.Added, key, now)
	case !sameContent(before.Object, now):
		r.publish(watch.Modified, key, now)
	}
}

func (r *Resource) publish(t watch.EventType, key types.NamespacedName, obj Object) {
	r.cache.version++
	entry, old := newEntry(obj, r.cache.version), r.served[key]
	if t == watch.Deleted {
		delete(r.served, key)
	} else {
		r.served[key] = entry
	}
	if !r.cache.synced {
		// Nobody can have been told a version yet.
		r.horizon = r.cache.version
		return
	}
	r.events = append(r.events, Event{Type: t, Version: entry.Version, Object: entry, Old: old})
	if surplus := len(r.events) - r.cache.history; surplus > r.cache.history {
		r.horizon = r.events[surplus-1].Version
		r.events = append(make([]Event, 0, 2*r.cache.history), r.events[surplus:]...)
	}
}

// sameContent compares all but the resource version, which is ours in one and empty in the other.
func sameContent(served, known Object) bool {
	served = shallowCopy(served)
	served.SetResourceVersion("")
	return equality.Semantic.DeepEqual(served, known)
}
