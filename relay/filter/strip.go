// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package filter

import (
	"maps"
	"slices"
	"unique"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/smartnat/smartnat/apis/kinds"
	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
)

// Mapping returns the part of a Mapping that may leave the cluster: everything that its author and SmartNat wrote, and the manager that last
// wrote the spec, without the list of its fields.
func Mapping(in *v1alpha1.Mapping) *v1alpha1.Mapping {
	out := in.DeepCopy()
	out.TypeMeta = metav1.TypeMeta{APIVersion: v1alpha1.SchemeGroupVersion.String(), Kind: "Mapping"}
	out.ObjectMeta = objectMeta(&in.ObjectMeta)
	out.ManagedFields = kinds.SpecWriter(in.ManagedFields)
	return out
}

// Service returns the part of a Service that may leave the cluster: addresses and ports, load balancing, and the selector.
// A selector is half of the proof that the endpoints are pods of the Service's namespace; the managing controller of the
// slices is the other half.
func Service(in *corev1.Service) *corev1.Service {
	out := &corev1.Service{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Service"},
		ObjectMeta: objectMeta(&in.ObjectMeta),
		Spec: corev1.ServiceSpec{
			Type:                     in.Spec.Type,
			Selector:                 maps.Clone(in.Spec.Selector),
			ClusterIP:                in.Spec.ClusterIP,
			ClusterIPs:               slices.Clone(in.Spec.ClusterIPs),
			IPFamilies:               slices.Clone(in.Spec.IPFamilies),
			SessionAffinity:          in.Spec.SessionAffinity,
			SessionAffinityConfig:    in.Spec.SessionAffinityConfig.DeepCopy(),
			InternalTrafficPolicy:    in.Spec.InternalTrafficPolicy,
			PublishNotReadyAddresses: in.Spec.PublishNotReadyAddresses,
		},
	}
	for _, p := range in.Spec.Ports {
		out.Spec.Ports = append(out.Spec.Ports, corev1.ServicePort{
			Name: p.Name, Protocol: p.Protocol, Port: p.Port, TargetPort: p.TargetPort,
		})
	}
	return out
}

// EndpointSlice returns the part of an EndpointSlice that may leave the cluster: addresses, conditions, ports and labels.
// The labels name the managing controller. A gateway that is a node also gets the nodes (WithNodes).
func EndpointSlice(in *discoveryv1.EndpointSlice) *discoveryv1.EndpointSlice {
	out := &discoveryv1.EndpointSlice{
		TypeMeta:    metav1.TypeMeta{APIVersion: discoveryv1.SchemeGroupVersion.String(), Kind: "EndpointSlice"},
		ObjectMeta:  objectMeta(&in.ObjectMeta),
		AddressType: in.AddressType,
		// These fields are required, so an empty list must not become null.
		Endpoints: make([]discoveryv1.Endpoint, 0, len(in.Endpoints)),
		Ports:     make([]discoveryv1.EndpointPort, 0, len(in.Ports)),
	}
	for i := range in.Endpoints {
		out.Endpoints = append(out.Endpoints, discoveryv1.Endpoint{
			Addresses:  append([]string{}, in.Endpoints[i].Addresses...),
			Conditions: *in.Endpoints[i].Conditions.DeepCopy(),
		})
	}
	for i := range in.Ports {
		p := in.Ports[i].DeepCopy()
		out.Ports = append(out.Ports, discoveryv1.EndpointPort{Name: p.Name, Protocol: p.Protocol, Port: p.Port})
	}
	return out
}

// nodesOf returns the node of each endpoint, or "". The text is shared: a cluster has few nodes and many endpoints.
func nodesOf(obj kinds.Object) []string {
	in := obj.(*discoveryv1.EndpointSlice)
	nodes := make([]string, len(in.Endpoints))
	for i := range in.Endpoints {
		if name := in.Endpoints[i].NodeName; name != nil {
			nodes[i] = unique.Make(*name).Value()
		}
	}
	return nodes
}

// WithNodes returns an EndpointSlice with the nodes of its endpoints, for a gateway that is a node, and other objects as they are. The
// result shares memory with its arguments.
func WithNodes(obj kinds.Object, nodes []string) kinds.Object {
	in, ok := obj.(*discoveryv1.EndpointSlice)
	if !ok || len(nodes) != len(in.Endpoints) {
		return obj
	}
	out := *in
	out.Endpoints = slices.Clone(in.Endpoints)
	for i := range out.Endpoints {
		if nodes[i] != "" {
			out.Endpoints[i].NodeName = &nodes[i]
		}
	}
	return &out
}

// PortGrant returns the part of a PortGrant that may leave the cluster: everything that its author wrote. The status is not, so that counts
// of it wake no watcher.
func PortGrant(in *v1alpha1.PortGrant) *v1alpha1.PortGrant {
	out := in.DeepCopy()
	out.TypeMeta = metav1.TypeMeta{APIVersion: v1alpha1.SchemeGroupVersion.String(), Kind: "PortGrant"}
	out.ObjectMeta = objectMeta(&in.ObjectMeta)
	out.Status = v1alpha1.PortGrantStatus{}
	return out
}

// Namespace returns the part of a namespace that may leave the cluster: its name and its labels, which PortGrants select.
func Namespace(in *corev1.Namespace) *corev1.Namespace {
	return &corev1.Namespace{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Namespace"}, ObjectMeta: objectMeta(&in.ObjectMeta)}
}

// objectMeta keeps the identity of an object, its age, by which the older of two Mappings wins, and its labels, which
// selectors match. It drops the cluster's resource version.
func objectMeta(in *metav1.ObjectMeta) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Name:              in.Name,
		Namespace:         in.Namespace,
		UID:               in.UID,
		Generation:        in.Generation,
		CreationTimestamp: in.CreationTimestamp,
		Labels:            maps.Clone(in.Labels),
	}
}
