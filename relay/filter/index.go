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
	// naming counts the objects of kinds of rule Always that refer to a Service, and, without a name, to any Service of a
	// namespace. belonging holds the objects of kinds of rule BelongsToNamed by their Service. Most Services have one or two.
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
		return slices.Concat(x.name(service), x.name(namespaceOf(service)))
	case BelongsToNamed:
		x.belonging[service] = append(x.belonging[service], object)
	case IsNamed, HoldsNamed:
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
		return slices.Concat(x.unname(service), x.unname(namespaceOf(service)))
	case BelongsToNamed:
		x.belonging[service] = slices.DeleteFunc(x.belonging[service], func(r Ref) bool { return r == object })
		if len(x.belonging[service]) == 0 {
			delete(x.belonging, service)
		}
	case IsNamed, HoldsNamed:
	}
	return nil
}

// name counts a reference. It returns the objects that the first one makes visible.
func (x *Index) name(service types.NamespacedName) []Ref {
	if x.naming[service]++; x.naming[service] > 1 {
		return nil
	}
	return x.of(service)
}

// unname removes a reference. It returns the objects that only the last one kept visible.
func (x *Index) unname(service types.NamespacedName) []Ref {
	if x.naming[service]--; x.naming[service] > 0 {
		return nil
	}
	delete(x.naming, service)
	return x.of(service)
}

func namespaceOf(service types.NamespacedName) types.NamespacedName {
	return types.NamespacedName{Namespace: service.Namespace}
}

// of returns the Service and the objects that belong to it, or the namespace if service has no name.
func (x *Index) of(service types.NamespacedName) []Ref {
	var all []Ref
	for kind := range x.kinds {
		switch rule := x.kinds[kind].Rule; {
		case rule == IsNamed && service.Name != "":
			all = append(all, Ref{kind, service})
		case rule == HoldsNamed && service.Name == "":
			all = append(all, Ref{kind, types.NamespacedName{Name: service.Namespace}})
		}
	}
	return append(all, x.belonging[service]...)
}
