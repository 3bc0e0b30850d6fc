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

// kind is what differs between the kinds.
type kind struct {
	// strip turns an object of the cluster into what may leave it; false when it is of another type.
	strip func(any) (Object, bool)
	// empty returns an object of the kind to read one into.
	empty func() Object
	// service returns the Service that decides whether an object is visible; empty when there is none.
	service func(Object) types.NamespacedName
	// visible says whether an object is to be seen at the moment.
	visible func(*held) bool
	// index gets the Service of an object before it is published, and then the one that it had; the other is empty.
	index func(key, before, after types.NamespacedName)
}

// Resource is the Cache's view of one kind.
type Resource struct {
	kind
	cache *Cache
	// known are the stripped objects of the cluster, visible or not; served are those that are visible.
	known  map[types.NamespacedName]*held
	served map[types.NamespacedName]*Entry
	// listed are the served in order, once somebody has asked for that since the last change.
	listed atomic.Pointer[[]*Entry]
	// events are the latest changes; all those after horizon are there. Watchers read parts of it without a lock, so
	// what is in it is never overwritten.
	events  []Event
	horizon Version
	synced  bool
	// changed is closed when there is something to read; news says that there is.
	changed chan struct{}
	news    bool
}

func (r *Resource) init(c *Cache, k kind) {
	r.kind, r.cache, r.horizon = k, c, c.version
	r.known = map[types.NamespacedName]*held{}
	r.served = map[types.NamespacedName]*Entry{}
	r.changed = make(chan struct{})
}

// Get returns an object, or nil.
func (r *Resource) Get(namespace, name string) *Entry {
	r.cache.mu.RLock()
	defer r.cache.mu.RUnlock()
	return r.served[types.NamespacedName{Namespace: namespace, Name: name}]
}

// Len is how many are served.
func (r *Resource) Len() int {
	r.cache.mu.RLock()
	defer r.cache.mu.RUnlock()
	return len(r.served)
}

// List returns what is served, in the order of the keys, and the version that it is the state of. The list must not be
// changed: it is the same one for all until something changes, however many come at once.
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

// Since returns the changes after a version, the version that they lead to, and a channel that is closed when there are
// more. It fails with ErrExpired when some of them are not known any more, or the version was never given out here.
func (r *Resource) Since(version Version) ([]Event, Version, <-chan struct{}, error) {
	r.cache.mu.RLock()
	defer r.cache.mu.RUnlock()
	if version < r.horizon || version > r.cache.version {
		return nil, 0, nil, ErrExpired
	}
	first := sort.Search(len(r.events), func(i int) bool { return r.events[i].Version > version })
	return r.events[first:len(r.events):len(r.events)], r.cache.version, r.changed, nil
}

// News returns a channel that is closed when there are changes after those that there are.
func (r *Resource) News() <-chan struct{} {
	r.cache.mu.RLock()
	defer r.cache.mu.RUnlock()
	return r.changed
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

// take puts an object, or nil for none, in the place of what was known under its key.
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
	// What an object makes visible is there before it, and what it made visible goes after it.
	if before != after {
		r.index(key, none, after)
	}
	r.settle(key)
	if before != after {
		r.index(key, before, none)
	}
}

// settle publishes what changed for watchers of one object, if anything did.
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
		// Nobody can have been told a version yet.
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

// sameContent compares all but the resource version, which is ours in one and empty in the other.
func sameContent(served, known Object) bool {
	served = shallowCopy(served)
	served.SetResourceVersion(known.GetResourceVersion())
	return equality.Semantic.DeepEqual(served, known)
}
