// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package filter

import (
	"slices"

	"k8s.io/apimachinery/pkg/types"
)

// Ref identifies an object: its kind, as an index into the table, and its namespace and name.
type Ref struct {
	Kind int
	Key  types.NamespacedName
}

// Index decides which objects are visible. Its user passes it each object of the cluster, visible or not, and the Service
// of the object's row (the zero value if there is none).
type Index struct {
	kinds []Kind
	// naming counts the objects of kinds of rule Always that refer to a Service. belonging holds the objects of kinds of
	// rule BelongsToNamed by their Service. Most Services have one or two.
	naming    map[types.NamespacedName]int
	belonging map[types.NamespacedName][]Ref
}

// NewIndex returns the Index of a cluster without objects.
func NewIndex(table []Kind) *Index {
	return &Index{kinds: table, naming: map[types.NamespacedName]int{}, belonging: map[types.NamespacedName][]Ref{}}
}

// none stands for no Service.
var none types.NamespacedName

// IsVisible reports whether an object of a kind may leave the cluster now.
func (x *Index) IsVisible(kind int, service types.NamespacedName) bool {
	return x.kinds[kind].Rule == Always || service != none && x.naming[service] > 0
}

// Add adds an object. It returns the other objects that it makes visible, known to the user or not.
func (x *Index) Add(object Ref, service types.NamespacedName) []Ref {
	if service == none {
		return nil
	}
	switch x.kinds[object.Kind].Rule {
	case Always:
		x.naming[service]++
		if x.naming[service] == 1 {
			return x.of(service)
		}
	case BelongsToNamed:
		x.belonging[service] = append(x.belonging[service], object)
	case IsNamed:
	}
	return nil
}

// Remove removes an object that was added with that Service. It returns the other objects that are no longer visible
// without it.
func (x *Index) Remove(object Ref, service types.NamespacedName) []Ref {
	if service == none {
		return nil
	}
	switch x.kinds[object.Kind].Rule {
	case Always:
		x.naming[service]--
		if x.naming[service] == 0 {
			delete(x.naming, service)
			return x.of(service)
		}
	case BelongsToNamed:
		x.belonging[service] = slices.DeleteFunc(x.belonging[service], func(r Ref) bool { return r == object })
		if len(x.belonging[service]) == 0 {
			delete(x.belonging, service)
		}
	case IsNamed:
	}
	return nil
}

// of returns the Service and the objects that belong to it.
func (x *Index) of(service types.NamespacedName) []Ref {
	var all []Ref
	for kind := range x.kinds {
		if x.kinds[kind].Rule == IsNamed {
			all = append(all, Ref{kind, service})
		}
	}
	return append(all, x.belonging[service]...)
}
