// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package kinds

import (
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Object is an object of any kind of the table.
type Object interface {
	runtime.Object
	metav1.Object
}

// Names are how an API names a kind.
type Names struct {
	schema.GroupVersionResource
	Kind, Singular string
	ShortNames     []string
	Categories     []string
	// ClusterScoped is set if objects are in no namespace.
	ClusterScoped bool
}

// TypeMeta returns the kind and the API version of objects.
func (n *Names) TypeMeta() metav1.TypeMeta {
	return metav1.TypeMeta{Kind: n.Kind, APIVersion: n.GroupVersion().String()}
}

// Kind is a row of the table. It must not be modified.
type Kind struct {
	Names
	// Protobuf is set if objects have a protobuf encoding. Kinds of a CustomResourceDefinition have none.
	Protobuf bool
	// Later is set if the first version did not have the kind: a relay or cluster that does not know it has none of its objects.
	Later bool

	newObject  func() Object
	newList    func() runtime.Object
	is         func(any) bool
	copy       func(Object) Object
	forGateway func(Object) Object
}

// Define returns the row of a kind with objects of type T and lists of type L. forGateway returns the part of an object
// that a gateway needs. It must keep the type and the resource version, and may share memory with its argument.
func Define[T, L any, P object[T], Q list[L]](names Names, forGateway func(P) P) *Kind {
	_, protobuf := any(P(new(T))).(interface{ Marshal() ([]byte, error) })
	return &Kind{
		Names: names, Protobuf: protobuf,
		newObject:  func() Object { return P(new(T)) },
		newList:    func() runtime.Object { return Q(new(L)) },
		is:         func(obj any) bool { p, ok := obj.(P); return ok && p != nil },
		copy:       func(obj Object) Object { c := *obj.(P); return P(&c) },
		forGateway: func(obj Object) Object { return forGateway(obj.(P)) },
	}
}

type object[T any] interface {
	*T
	Object
}

type list[L any] interface {
	*L
	runtime.Object
}

// later marks the kind as one that the first version did not have.
func (k *Kind) later() *Kind {
	k.Later = true
	return k
}

// New returns an empty object to decode into.
func (k *Kind) New() Object { return k.newObject() }

// NewList returns an empty list to decode into.
func (k *Kind) NewList() runtime.Object { return k.newList() }

// Is reports whether obj is an object of the kind.
func (k *Kind) Is(obj any) bool { return k.is(obj) }

// ForGateway returns the part of an object of the kind that a gateway needs, at the same resource version. The result
// shares memory with obj; neither may be modified.
func (k *Kind) ForGateway(obj Object) Object { return k.forGateway(obj) }

// WithVersion returns a copy of an object of the kind at another resource version. It shares the rest with obj.
func (k *Kind) WithVersion(obj Object, version string) Object {
	obj = k.copy(obj)
	obj.SetResourceVersion(version)
	return obj
}

// Same reports whether two objects of the kind have the same content, apart from the resource version.
func (k *Kind) Same(a, b Object) bool {
	return equality.Semantic.DeepEqual(k.WithVersion(a, b.GetResourceVersion()), b)
}

// AddToScheme registers the kinds of a table.
func AddToScheme(scheme *runtime.Scheme, table []*Kind) {
	for _, k := range table {
		scheme.AddKnownTypes(k.GroupVersion(), k.New(), k.NewList())
	}
}
