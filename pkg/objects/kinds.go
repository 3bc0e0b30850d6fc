// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package objects

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/smartnat/smartnat/apis/kinds"
	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
)

// Kind is a row of the table: a kind that a Snapshot holds.
type Kind struct {
	*kinds.Kind
	// Key is the name of the kind in files of saved objects. It never changes.
	Key string

	// validName checks the name of an object, check the rest of the metadata.
	validName validation.ValidateNameFunc
	check     func(metav1.Object) error

	all     func(*Snapshot) []kinds.Object
	add     func(*Snapshot, kinds.Object)
	set     func(s *Snapshot, o kinds.Object, given *bool)
	remove  func(s *Snapshot, o kinds.Object, given *bool)
	clip    func(*Snapshot)
	replace func(s, with *Snapshot) bool
}

// table has a row for each list of a Snapshot. It is never modified.
var table = [...]Kind{
	row(kinds.Mapping, "mapping", func(s *Snapshot) *[]*v1alpha1.Mapping { return &s.Mappings }, validation.NameIsDNSSubdomain, nil),
	row(kinds.Service, "service", func(s *Snapshot) *[]*corev1.Service { return &s.Services }, validation.NameIsDNSLabel, nil),
	row(kinds.EndpointSlice, "endpointSlice", func(s *Snapshot) *[]*discoveryv1.EndpointSlice { return &s.EndpointSlices },
		validation.NameIsDNSSubdomain, checkServiceName),
	row(kinds.PortGrant, "portGrant", func(s *Snapshot) *[]*v1alpha1.PortGrant { return &s.PortGrants }, validation.NameIsDNSSubdomain, nil),
	row(kinds.Namespace, "namespace", func(s *Snapshot) *[]*corev1.Namespace { return &s.Namespaces }, validation.ValidateNamespaceName, nil),
}

// Kinds returns the kinds that a Snapshot holds.
func Kinds() []Kind { return slices.Clone(table[:]) }

// All returns the objects of the kind in a Snapshot.
func (k *Kind) All(s *Snapshot) []kinds.Object { return k.all(s) }

// Add adds an object of the kind to a Snapshot.
func (k *Kind) Add(s *Snapshot, object kinds.Object) { k.add(s, object) }

// indexOf returns the row of an object, or -1.
func indexOf(object any) int {
	for i := range table {
		if table[i].Is(object) {
			return i
		}
	}
	return -1
}

// row returns the row of a kind whose objects are in a list of the Snapshot.
func row[T kinds.Object](kind *kinds.Kind, key string, list func(*Snapshot) *[]T, name validation.ValidateNameFunc, check func(metav1.Object) error) Kind {
	// own makes a list that a Snapshot holds the Store's own.
	own := func(s *Snapshot, given *bool) *[]T {
		l := list(s)
		if *given {
			*l, *given = slices.Clone(*l), false
		}
		return l
	}
	return Kind{
		Kind: kind, Key: key, validName: name, check: check,
		all: func(s *Snapshot) []kinds.Object {
			all := make([]kinds.Object, 0, len(*list(s)))
			for _, o := range *list(s) {
				all = append(all, o)
			}
			return all
		},
		add: func(s *Snapshot, o kinds.Object) { *list(s) = append(*list(s), o.(T)) },
		set: func(s *Snapshot, o kinds.Object, given *bool) {
			i, found := Find(*list(s), o.GetNamespace(), o.GetName())
			if l := own(s, given); found {
				(*l)[i] = o.(T)
			} else {
				*l = slices.Insert(*l, i, o.(T))
			}
		},
		remove: func(s *Snapshot, o kinds.Object, given *bool) {
			if i, found := Find(*list(s), o.GetNamespace(), o.GetName()); found {
				l := own(s, given)
				*l = slices.Delete(*l, i, i+1)
			}
		},
		clip: func(s *Snapshot) { *list(s) = slices.Clip(*list(s)) },
		replace: func(s, with *Snapshot) bool {
			old, next := *list(s), slices.Clone(*list(with))
			differs := len(next) != len(old)
			for i, o := range next {
				if at, found := Find(old, o.GetNamespace(), o.GetName()); found && kind.Same(old[at], o) {
					next[i] = old[at]
				} else {
					differs = true
				}
			}
			if differs {
				*list(s) = next
			}
			return differs
		},
	}
}
