// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"fmt"

	"k8s.io/apimachinery/pkg/types"
	toolscache "k8s.io/client-go/tools/cache"
)

// Store is the side of a Resource that a reflector fills. It strips objects first, so that a cluster with few mapped
// Services costs little memory.
type Store struct{ resource *Resource }

var _ toolscache.TransformingStore = Store{}

// Store returns the Store of the Resource.
func (r *Resource) Store() Store { return Store{r} }

// Add adds an object.
func (s Store) Add(obj any) error { return s.Update(obj) }

// Update adds or replaces an object.
func (s Store) Update(obj any) error {
	stored, err := s.stored(obj)
	if err != nil {
		return err
	}
	s.do(func() { s.resource.cache.take(s.resource.clusterSide, stored.key, stored) })
	return nil
}

// Delete removes an object.
func (s Store) Delete(obj any) error {
	stored, err := s.stored(obj)
	if err != nil {
		return err
	}
	s.do(func() { s.resource.cache.take(s.resource.clusterSide, stored.key, nil) })
	return nil
}

// Replace replaces all objects. The Cache has synced once Replace was called for every kind.
func (s Store) Replace(objs []any, _ string) error {
	next := make(map[types.NamespacedName]*storedObject, len(objs))
	for _, obj := range objs {
		stored, err := s.stored(obj)
		if err != nil {
			return err
		}
		next[stored.key] = stored
	}
	s.do(func() {
		c, of := s.resource.cache, s.resource.clusterSide
		for key := range of.known {
			if next[key] == nil {
				c.take(of, key, nil)
			}
		}
		for key, stored := range next {
			c.take(of, key, stored)
		}
		of.synced = true
		c.synced = c.isComplete()
	})
	return nil
}

// Resync does nothing: the served state always follows the known state.
func (s Store) Resync() error { return nil }

// Transformer strips and packs objects while the reflector still collects a list, because a large cluster is in memory at
// once then.
func (s Store) Transformer() toolscache.TransformFunc {
	return func(obj any) (any, error) {
		stored, err := s.stored(obj)
		if err == nil {
			s.resource.pack(stored)
		}
		return stored, err
	}
}

// stored strips an object, unless the Transformer has done so.
func (s Store) stored(obj any) (*storedObject, error) {
	if stored, ok := obj.(*storedObject); ok {
		return stored, nil
	}
	if !s.resource.kind.Is(obj) {
		return nil, fmt.Errorf("unexpected object of type %T from the API server", obj)
	}
	return s.resource.newStored(obj.(Object)), nil
}

// do applies a change to the Cache and wakes the watchers of the kinds that changed.
func (s Store) do(change func()) {
	c := s.resource.cache
	c.mu.Lock()
	defer c.mu.Unlock()
	change()
	c.wake()
}
