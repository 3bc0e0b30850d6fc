// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package source

import (
	"cmp"
	"slices"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/pkg/objects"
)

// store holds the objects of a Source, sorted by namespace and name. Snapshots are immutable: successive Snapshots share
// the lists of unchanged kinds and all unchanged objects.
type store struct {
	mu             sync.Mutex
	mappings       sorted[*v1alpha1.Mapping]
	services       sorted[*corev1.Service]
	endpointSlices sorted[*discoveryv1.EndpointSlice]
}

func (s *store) set(object any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch o := object.(type) {
	case *v1alpha1.Mapping:
		s.mappings.set(o)
	case *corev1.Service:
		s.services.set(o)
	case *discoveryv1.EndpointSlice:
		s.endpointSlices.set(o)
	}
}

func (s *store) remove(object any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch o := object.(type) {
	case *v1alpha1.Mapping:
		s.mappings.remove(o)
	case *corev1.Service:
		s.services.remove(o)
	case *discoveryv1.EndpointSlice:
		s.endpointSlices.remove(o)
	}
}

func (s *store) snapshot() objects.Snapshot {
	s.mu.Lock()
	defer s.mu.Unlock()
	return objects.Snapshot{Mappings: s.mappings.list(), Services: s.services.list(), EndpointSlices: s.endpointSlices.list()}
}

// replace stores all objects of another Snapshot and reports whether anything changed.
func (s *store) replace(with objects.Snapshot) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	mappings, services := s.mappings.replace(with.Mappings), s.services.replace(with.Services)
	return s.endpointSlices.replace(with.EndpointSlices) || services || mappings
}

// sorted is a list of objects sorted by namespace and name.
type sorted[T metav1.Object] struct {
	objects []T
	// given is set if a Snapshot holds the list; the next change then copies it.
	given bool
}

func (l *sorted[T]) list() []T {
	l.given = true
	return slices.Clip(l.objects)
}

func (l *sorted[T]) set(object T) {
	i, found := l.find(object)
	l.own()
	if found {
		l.objects[i] = object
	} else {
		l.objects = slices.Insert(l.objects, i, object)
	}
}

func (l *sorted[T]) remove(object T) {
	if i, found := l.find(object); found {
		l.own()
		l.objects = slices.Delete(l.objects, i, i+1)
	}
}

// replace stores another sorted list but keeps objects with the same content.
func (l *sorted[T]) replace(with []T) bool {
	next, differs := slices.Clone(with), len(with) != len(l.objects)
	for i, object := range next {
		if at, found := l.find(object); found && same(l.objects[at], object) {
			next[i] = l.objects[at]
		} else {
			differs = true
		}
	}
	if differs {
		l.objects, l.given = next, false
	}
	return differs
}

func (l *sorted[T]) find(object T) (int, bool) {
	return slices.BinarySearchFunc(l.objects, object, func(a, b T) int {
		return cmp.Or(strings.Compare(a.GetNamespace(), b.GetNamespace()), strings.Compare(a.GetName(), b.GetName()))
	})
}

func (l *sorted[T]) own() {
	if l.given {
		l.objects, l.given = slices.Clone(l.objects), false
	}
}
