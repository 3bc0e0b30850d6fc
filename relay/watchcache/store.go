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
	h, err := s.hold(obj)
	if err != nil {
		return err
	}
	s.do(func() { s.resource.take(h.key, h) })
	return nil
}

// Delete removes an object.
func (s Store) Delete(obj any) error {
	h, err := s.hold(obj)
	if err != nil {
		return err
	}
	s.do(func() { s.resource.take(h.key, nil) })
	return nil
}

// Replace replaces all objects. The Cache has synced once Replace was called for every kind.
func (s Store) Replace(objs []any, _ string) error {
	next := make(map[types.NamespacedName]*held, len(objs))
	for _, obj := range objs {
		h, err := s.hold(obj)
		if err != nil {
			return err
		}
		next[h.key] = h
	}
	s.do(func() {
		for key := range s.resource.known {
			if next[key] == nil {
				s.resource.take(key, nil)
			}
		}
		for key, h := range next {
			s.resource.take(key, h)
		}
		s.resource.synced = true
		c := s.resource.cache
		c.synced = c.mappings.synced && c.services.synced && c.slices.synced
	})
	return nil
}

// Resync does nothing: the served state always follows the known state.
func (s Store) Resync() error { return nil }

// Transformer strips and packs objects while the reflector still collects a list, because a large cluster is in memory at
// once then.
func (s Store) Transformer() toolscache.TransformFunc {
	return func(obj any) (any, error) {
		h, err := s.hold(obj)
		if err == nil {
			s.resource.pack(h)
		}
		return h, err
	}
}

// hold strips an object, unless the Transformer has done so.
func (s Store) hold(obj any) (*held, error) {
	if h, ok := obj.(*held); ok {
		return h, nil
	}
	stripped, ok := s.resource.strip(obj)
	if !ok {
		return nil, fmt.Errorf("unexpected object of type %T from the API server", obj)
	}
	return &held{key: keyOf(stripped), service: s.resource.service(stripped), object: stripped}, nil
}

// do applies a change to the Cache and wakes the watchers of the kinds that changed.
func (s Store) do(change func()) {
	c := s.resource.cache
	c.mu.Lock()
	defer c.mu.Unlock()
	change()
	c.wake()
}
