// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package kinds

import (
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
)

// The functions of this file return the part of an object that a gateway needs, in two places: a relay sends only that part
// to a client that asks for it by the profile of the media type, and a gateway keeps only that part of what any server sends.
// It saves memory, and changes of other fields cause no work. The results share memory with their arguments.

// mappingForGateway drops the status and the labels.
func mappingForGateway(in *v1alpha1.Mapping) *v1alpha1.Mapping {
	meta := gatewayMeta(&in.ObjectMeta)
	// The older of two conflicting Mappings wins, and status reports name UID and generation.
	meta.UID, meta.Generation, meta.CreationTimestamp = in.UID, in.Generation, in.CreationTimestamp
	meta.ManagedFields = SpecWriter(in.ManagedFields) // for the audit
	return &v1alpha1.Mapping{TypeMeta: in.TypeMeta, ObjectMeta: meta, Spec: in.Spec}
}

// serviceForGateway drops the labels, the target ports, which are in the EndpointSlices, and node ports: a gateway is not a
// node. It keeps the selector, because only endpoints of a Service with a selector are known to be pods.
func serviceForGateway(in *corev1.Service) *corev1.Service {
	out := &corev1.Service{TypeMeta: in.TypeMeta, ObjectMeta: gatewayMeta(&in.ObjectMeta), Spec: corev1.ServiceSpec{
		Type: in.Spec.Type, Selector: in.Spec.Selector, ClusterIP: in.Spec.ClusterIP, ClusterIPs: in.Spec.ClusterIPs, IPFamilies: in.Spec.IPFamilies,
		SessionAffinity: in.Spec.SessionAffinity, SessionAffinityConfig: in.Spec.SessionAffinityConfig,
		InternalTrafficPolicy: in.Spec.InternalTrafficPolicy,
	}}
	if in.Spec.Ports != nil {
		out.Spec.Ports = make([]corev1.ServicePort, len(in.Spec.Ports))
	}
	for i, p := range in.Spec.Ports {
		out.Spec.Ports[i] = corev1.ServicePort{Name: p.Name, Protocol: p.Protocol, Port: p.Port}
	}
	return out
}

// endpointSliceForGateway drops all labels except for the Service name and the managing controller, conditions that equal
// their default, and the zones and references of endpoints: a gateway is in no zone. It keeps their nodes, which a relay tells only
// gateways that are nodes.
func endpointSliceForGateway(in *discoveryv1.EndpointSlice) *discoveryv1.EndpointSlice {
	out := &discoveryv1.EndpointSlice{
		TypeMeta: in.TypeMeta, ObjectMeta: gatewayMeta(&in.ObjectMeta), AddressType: in.AddressType, Ports: in.Ports,
	}
	out.Labels = sliceLabels(in.Labels)
	if in.Endpoints != nil {
		out.Endpoints = make([]discoveryv1.Endpoint, len(in.Endpoints))
	}
	for i := range in.Endpoints {
		out.Endpoints[i] = discoveryv1.Endpoint{
			Addresses: in.Endpoints[i].Addresses, Conditions: gatewayConditions(in.Endpoints[i].Conditions), NodeName: in.Endpoints[i].NodeName,
		}
	}
	return out
}

// portGrantForGateway keeps the spec.
func portGrantForGateway(in *v1alpha1.PortGrant) *v1alpha1.PortGrant {
	return &v1alpha1.PortGrant{TypeMeta: in.TypeMeta, ObjectMeta: gatewayMeta(&in.ObjectMeta), Spec: in.Spec}
}

// namespaceForGateway keeps the labels.
func namespaceForGateway(in *corev1.Namespace) *corev1.Namespace {
	out := &corev1.Namespace{TypeMeta: in.TypeMeta, ObjectMeta: gatewayMeta(&in.ObjectMeta)}
	out.Labels = in.Labels
	return out
}

// gatewayConditions drops all conditions of a ready endpoint: ready is the default, and a gateway reads no others then. Of
// an endpoint that is not ready, it keeps serving and terminating if they are true; the default is false.
func gatewayConditions(in discoveryv1.EndpointConditions) (out discoveryv1.EndpointConditions) {
	if in.Ready == nil || *in.Ready {
		return out
	}
	out.Ready = &isFalse
	if in.Serving != nil && *in.Serving {
		out.Serving = &isTrue
	}
	if in.Terminating != nil && *in.Terminating {
		out.Terminating = &isTrue
	}
	return out
}

// Targets of the conditions of all objects. Never modified.
var isTrue, isFalse = true, false

func gatewayMeta(in *metav1.ObjectMeta) metav1.ObjectMeta {
	return metav1.ObjectMeta{Name: in.Name, Namespace: in.Namespace, ResourceVersion: in.ResourceVersion}
}

// sliceLabels returns the labels that a gateway reads: the Service name and the managing controller. It returns nil if
// there are none.
func sliceLabels(in map[string]string) map[string]string {
	var out map[string]string
	for _, key := range []string{discoveryv1.LabelServiceName, discoveryv1.LabelManagedBy} {
		if value := in[key]; value != "" {
			if out == nil {
				out = map[string]string{}
			}
			out[key] = value
		}
	}
	return out
}
