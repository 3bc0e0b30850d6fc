// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package source

import (
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
)

// strip returns a copy that holds only the fields that gateways use. It saves memory, and changes of other fields cause no
// work. The copy is never part of a decoded list, because a single object would keep the whole list in memory.
func strip(object any) any {
	switch o := object.(type) {
	case *v1alpha1.Mapping:
		meta := stripMeta(o.ObjectMeta)
		// Age decides between conflicting Mappings, and status reports name UID and generation.
		meta.UID, meta.Generation, meta.CreationTimestamp = o.UID, o.Generation, o.CreationTimestamp
		return &v1alpha1.Mapping{ObjectMeta: meta, Spec: o.Spec}
	case *corev1.Service:
		return &corev1.Service{ObjectMeta: stripMeta(o.ObjectMeta), Spec: corev1.ServiceSpec{
			Type: o.Spec.Type, Selector: o.Spec.Selector, ClusterIP: o.Spec.ClusterIP, ClusterIPs: o.Spec.ClusterIPs, IPFamilies: o.Spec.IPFamilies,
			Ports: stripPorts(o.Spec.Ports), SessionAffinity: o.Spec.SessionAffinity, SessionAffinityConfig: o.Spec.SessionAffinityConfig,
			InternalTrafficPolicy: o.Spec.InternalTrafficPolicy,
		}}
	case *discoveryv1.EndpointSlice:
		meta := stripMeta(o.ObjectMeta)
		meta.Labels = map[string]string{discoveryv1.LabelServiceName: o.Labels[discoveryv1.LabelServiceName]}
		// The managing controller and the selector of the Service prove that endpoints are pods.
		if manager := o.Labels[discoveryv1.LabelManagedBy]; manager != "" {
			meta.Labels[discoveryv1.LabelManagedBy] = manager
		}
		return &discoveryv1.EndpointSlice{
			ObjectMeta: meta, AddressType: o.AddressType, Endpoints: stripEndpoints(o.Endpoints), Ports: o.Ports,
		}
	}
	return object
}

func stripMeta(m metav1.ObjectMeta) metav1.ObjectMeta {
	return metav1.ObjectMeta{Name: m.Name, Namespace: m.Namespace, ResourceVersion: m.ResourceVersion}
}

// stripPorts drops node ports, because a gateway is not a node, and target ports, which are in the slices.
func stripPorts(ports []corev1.ServicePort) []corev1.ServicePort {
	if ports == nil {
		return nil
	}
	stripped := make([]corev1.ServicePort, len(ports))
	for i, p := range ports {
		stripped[i] = corev1.ServicePort{Name: p.Name, Protocol: p.Protocol, Port: p.Port}
	}
	return stripped
}

// stripEndpoints drops zones, nodes and references: a gateway is in no zone.
func stripEndpoints(endpoints []discoveryv1.Endpoint) []discoveryv1.Endpoint {
	if endpoints == nil {
		return nil
	}
	stripped := make([]discoveryv1.Endpoint, len(endpoints))
	for i, e := range endpoints {
		stripped[i] = discoveryv1.Endpoint{Addresses: e.Addresses, Conditions: discoveryv1.EndpointConditions{
			Ready: shared(e.Conditions.Ready), Serving: shared(e.Conditions.Serving), Terminating: shared(e.Conditions.Terminating),
		}}
	}
	return stripped
}

// shared returns a pointer to a value that all objects share.
func shared(condition *bool) *bool {
	switch {
	case condition == nil:
		return nil
	case *condition:
		return &isTrue
	default:
		return &isFalse
	}
}

// Targets of shared. Never modified.
var isTrue, isFalse = true, false

// same reports whether two stripped versions of an object have the same content. Rewriting an object without a change is
// no event.
func same(old, current any) bool {
	switch now := current.(type) {
	case *v1alpha1.Mapping:
		was, ok := old.(*v1alpha1.Mapping)
		return ok && sameMeta(was.ObjectMeta, now.ObjectMeta) && equality.Semantic.DeepEqual(was.Spec, now.Spec)
	case *corev1.Service:
		was, ok := old.(*corev1.Service)
		return ok && sameMeta(was.ObjectMeta, now.ObjectMeta) && equality.Semantic.DeepEqual(was.Spec, now.Spec)
	case *discoveryv1.EndpointSlice:
		was, ok := old.(*discoveryv1.EndpointSlice)
		return ok && sameMeta(was.ObjectMeta, now.ObjectMeta) && was.AddressType == now.AddressType &&
			equality.Semantic.DeepEqual(was.Endpoints, now.Endpoints) && equality.Semantic.DeepEqual(was.Ports, now.Ports)
	}
	return false
}

func sameMeta(old, current metav1.ObjectMeta) bool {
	old.ResourceVersion = current.ResourceVersion
	return equality.Semantic.DeepEqual(old, current)
}
