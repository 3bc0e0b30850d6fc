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
	"github.com/smartnat/smartnat/pkg/calc"
)

// store holds the objects of a source by namespace and name. What it gave out never changes: between two Snapshots only the
// lists of kinds that changed are new, and in those only the objects that changed.
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

func (s *store) snapshot() calc.Snapshot {
	s.mu.Lock()
	defer s.mu.Unlock()
	return calc.Snapshot{Mappings: s.mappings.list(), Services: s.services.list(), EndpointSlices: s.endpointSlices.list()}
}

// replace takes over all objects of another Snapshot, and reports whether it says anything else.
func (s *store) replace(with calc.Snapshot) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	mappings, services := s.mappings.replace(with.Mappings), s.services.replace(with.Services)
	return s.endpointSlices.replace(with.EndpointSlices) || services || mappings
}

// sorted is a list of objects by namespace and name.
type sorted[T metav1.Object] struct {
	objects []T
	// given is set while somebody may read the list: the next change makes a new one.
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

// replace takes over another sorted list, but keeps the objects that say the same.
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
