// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package objects

import (
	"cmp"
	"slices"
	"strings"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/smartnat/smartnat/apis/kinds"
)

// Store holds the objects of a source, sorted by namespace and name. Snapshots are immutable: successive Snapshots share
// the lists of unchanged kinds and all unchanged objects. The zero value is empty. It is safe for concurrent use.
type Store struct {
	mu sync.Mutex
	// now holds the lists. given is set for those that a Snapshot holds; the next change then copies them.
	now   Snapshot
	given [len(table)]bool
}

// Set adds or replaces an object. It ignores objects of kinds that a Snapshot does not hold.
func (s *Store) Set(object kinds.Object) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := indexOf(object); i >= 0 {
		table[i].set(&s.now, object, &s.given[i])
	}
}

// Remove removes an object.
func (s *Store) Remove(object kinds.Object) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := indexOf(object); i >= 0 {
		table[i].remove(&s.now, object, &s.given[i])
	}
}

// Snapshot returns all objects.
func (s *Store) Snapshot() Snapshot {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range table {
		s.given[i] = true
		table[i].clip(&s.now)
	}
	return s.now
}

// Read calls f with all objects, without the cost of a Snapshot. f must not keep the lists nor use the Store.
func (s *Store) Read(f func(Snapshot)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(s.now)
}

// Replace stores all objects of another Snapshot but keeps objects with the same content. It reports whether anything
// changed.
func (s *Store) Replace(with Snapshot) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	differs := false
	for i := range table {
		if table[i].replace(&s.now, &with) {
			s.given[i], differs = false, true
		}
	}
	return differs
}

// Find returns the place of a name in a sorted list of objects, and whether it is there.
func Find[T metav1.Object](list []T, namespace, name string) (int, bool) {
	return slices.BinarySearchFunc(list, name, func(o T, name string) int {
		return cmp.Or(strings.Compare(o.GetNamespace(), namespace), strings.Compare(o.GetName(), name))
	})
}
