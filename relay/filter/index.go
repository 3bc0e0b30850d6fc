// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package filter

import (
	"maps"
	"slices"

	"k8s.io/apimachinery/pkg/types"

	"github.com/smartnat/smartnat/apis/kinds"
)

// Ref identifies an object: its kind, as an index into the table, and its namespace and name.
type Ref struct {
	Kind int
	Key  types.NamespacedName
}

// Index decides which objects are visible in a Scope. Its user passes it each object of the cluster, visible or not, and the Service
// that Refers returns for it.
type Index struct {
	kinds []Kind
	scope Scope
	// naming counts the objects of kinds of rule Always that refer to a Service, and, without a name, to any Service of a
	// namespace. belonging holds the objects of kinds of rule BelongsToNamed by their Service. Most Services have one or two.
	naming    map[types.NamespacedName]int
	belonging map[types.NamespacedName][]Ref
	// shares is set if another Index fills belonging.
	shares bool
}

// NewIndex returns the Index of a cluster without objects, of the Scope Everything.
func NewIndex(table []Kind) *Index {
	return &Index{kinds: table, scope: Everything(), naming: map[types.NamespacedName]int{}, belonging: map[types.NamespacedName][]Ref{}}
}

// Narrowed returns an Index for the same cluster in which nothing is visible yet. x must get each change first.
func (x *Index) Narrowed() *Index {
	return &Index{kinds: x.kinds, naming: map[types.NamespacedName]int{}, belonging: x.belonging, shares: true}
}

// Copied returns an Index that shows what x shows. x must get each change first.
func (x *Index) Copied() *Index {
	return &Index{kinds: x.kinds, scope: x.scope, naming: maps.Clone(x.naming), belonging: x.belonging, shares: true}
}

// SetScope changes the Scope. The user then has to Add what Refers returns now, and Remove what it returned before, for each object.
func (x *Index) SetScope(scope Scope) { x.scope = scope }

// Scope returns the Scope.
func (x *Index) Scope() Scope { return x.scope }

// Refers returns the Service to pass for an object to Add and Remove: that of the object's row, or the zero value if there is none,
// or if the object is out of scope. The object is only read if its kind is of rule Always.
func (x *Index) Refers(kind int, object kinds.Object, service types.NamespacedName) types.NamespacedName {
	if x.kinds[kind].Rule == Always && !x.scope.includes(object) {
		return none
	}
	return service
}

// none stands for no Service.
var none types.NamespacedName

// IsVisible reports whether an object of a kind may leave the cluster now. service is that of its row. The object is only read if its
// kind is of rule Always.
func (x *Index) IsVisible(kind int, object kinds.Object, service types.NamespacedName) bool {
	if x.kinds[kind].Rule == Always {
		return x.scope.includes(object)
	}
	return service != none && x.naming[service] > 0
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
		if x.shares {
			return nil
		}
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
		if x.shares {
			return nil
		}
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
