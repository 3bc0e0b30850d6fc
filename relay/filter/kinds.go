// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package filter

import (
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/smartnat/smartnat/apis/kinds"
	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/apis/smartnat/validation"
)

// Rule is the condition under which the objects of a kind are visible.
type Rule int

const (
	// Always shows all objects of a kind that are in scope, and makes the Service that an object refers to visible. Authors of
	// Mappings must be able to see the status of all of them.
	Always Rule = iota
	// IsNamed shows a Service while a visible object refers to it.
	IsNamed
	// BelongsToNamed shows an object while a visible object refers to the Service that it belongs to.
	BelongsToNamed
	// HoldsNamed shows a namespace while a visible object of it refers to a Service.
	HoldsNamed
)

// Kind is a row of the table: a kind whose objects may leave the cluster.
type Kind struct {
	*kinds.Kind
	Rule Rule
	// Strip returns the part of an object of the kind that may leave the cluster. It shares no memory with the object.
	Strip func(kinds.Object) kinds.Object
	// Nodes returns the node of each endpoint of an object before Strip. It is nil for kinds without endpoints.
	Nodes func(kinds.Object) []string
	// Service returns the Service that a stripped object refers to, is, or belongs to, according to Rule. It returns false
	// if there is none. For a namespace, it returns the namespace without the name of a Service.
	Service func(kinds.Object) (types.NamespacedName, bool)
}

// Kinds returns the table. No object of another kind leaves the cluster.
func Kinds() []Kind {
	return []Kind{
		{Kind: kinds.Mapping, Rule: Always, Strip: strip(Mapping), Service: refer(ServiceOf)},
		{Kind: kinds.Service, Rule: IsNamed, Strip: strip(Service), Service: refer(itself)},
		{Kind: kinds.EndpointSlice, Rule: BelongsToNamed, Strip: strip(EndpointSlice), Nodes: nodesOf, Service: refer(OwnerService)},
		{Kind: kinds.PortGrant, Rule: Always, Strip: strip(PortGrant), Service: refer(noService[*v1alpha1.PortGrant])},
		{Kind: kinds.Namespace, Rule: HoldsNamed, Strip: strip(Namespace), Service: refer(anyServiceOf)},
	}
}

// ServiceOf returns the Service that a Mapping makes visible. An invalid Mapping makes none visible.
func ServiceOf(m *v1alpha1.Mapping) (types.NamespacedName, bool) {
	if len(validation.ValidateMapping(m)) > 0 {
		return types.NamespacedName{}, false
	}
	return types.NamespacedName{Namespace: m.Namespace, Name: m.Spec.ServiceName}, true
}

// OwnerService returns the Service that an EndpointSlice belongs to.
func OwnerService(s *discoveryv1.EndpointSlice) (types.NamespacedName, bool) {
	name := s.Labels[discoveryv1.LabelServiceName]
	return types.NamespacedName{Namespace: s.Namespace, Name: name}, name != ""
}

func noService[P kinds.Object](P) (types.NamespacedName, bool) { return types.NamespacedName{}, false }

func anyServiceOf(n *corev1.Namespace) (types.NamespacedName, bool) {
	return types.NamespacedName{Namespace: n.Name}, true
}

func itself(s *corev1.Service) (types.NamespacedName, bool) {
	return types.NamespacedName{Namespace: s.Namespace, Name: s.Name}, true
}

func strip[P kinds.Object](f func(P) P) func(kinds.Object) kinds.Object {
	return func(obj kinds.Object) kinds.Object { return f(obj.(P)) }
}

func refer[P kinds.Object](f func(P) (types.NamespacedName, bool)) func(kinds.Object) (types.NamespacedName, bool) {
	return func(obj kinds.Object) (types.NamespacedName, bool) { return f(obj.(P)) }
}
