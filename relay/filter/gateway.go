// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package filter

import (
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
)

// The functions of this file return the part of a stripped object that a gateway needs. A gateway asks for it by the
// profile of the media type; other clients, such as kubectl, get the whole stripped object. The results share memory with
// their arguments and must not be modified.

// GatewayMapping drops the status and the labels.
func GatewayMapping(in *v1alpha1.Mapping) *v1alpha1.Mapping {
	meta := gatewayMeta(&in.ObjectMeta)
	// The older of two conflicting Mappings wins, and status reports name UID and generation.
	meta.UID, meta.Generation, meta.CreationTimestamp = in.UID, in.Generation, in.CreationTimestamp
	return &v1alpha1.Mapping{TypeMeta: in.TypeMeta, ObjectMeta: meta, Spec: in.Spec}
}

// GatewayService drops the labels and the target ports, which are in the EndpointSlices. It keeps the selector, because
// only endpoints of a Service with a selector are known to be pods.
func GatewayService(in *corev1.Service) *corev1.Service {
	out := &corev1.Service{TypeMeta: in.TypeMeta, ObjectMeta: gatewayMeta(&in.ObjectMeta), Spec: corev1.ServiceSpec{
		Type: in.Spec.Type, Selector: in.Spec.Selector, ClusterIP: in.Spec.ClusterIP, ClusterIPs: in.Spec.ClusterIPs, IPFamilies: in.Spec.IPFamilies,
		SessionAffinity: in.Spec.SessionAffinity, SessionAffinityConfig: in.Spec.SessionAffinityConfig,
		InternalTrafficPolicy: in.Spec.InternalTrafficPolicy,
	}}
	for _, p := range in.Spec.Ports {
		out.Spec.Ports = append(out.Spec.Ports, corev1.ServicePort{Name: p.Name, Protocol: p.Protocol, Port: p.Port})
	}
	return out
}

// GatewayEndpointSlice drops all labels except for the Service name and the managing controller, and conditions that equal
// their default.
func GatewayEndpointSlice(in *discoveryv1.EndpointSlice) *discoveryv1.EndpointSlice {
	out := &discoveryv1.EndpointSlice{
		TypeMeta: in.TypeMeta, ObjectMeta: gatewayMeta(&in.ObjectMeta), AddressType: in.AddressType,
		Endpoints: make([]discoveryv1.Endpoint, 0, len(in.Endpoints)), Ports: in.Ports,
	}
	out.Labels = sliceLabels(in.Labels)
	for i := range in.Endpoints {
		out.Endpoints = append(out.Endpoints, discoveryv1.Endpoint{
			Addresses: in.Endpoints[i].Addresses, Conditions: gatewayConditions(in.Endpoints[i].Conditions),
		})
	}
	return out
}

// gatewayConditions drops all conditions of a ready endpoint: ready is the default, and a gateway reads no others then. Of
// an endpoint that is not ready, it keeps serving and terminating if they are true; the default is false.
func gatewayConditions(in discoveryv1.EndpointConditions) (out discoveryv1.EndpointConditions) {
	if in.Ready == nil || *in.Ready {
		return out
	}
	out.Ready = in.Ready
	if in.Serving != nil && *in.Serving {
		out.Serving = in.Serving
	}
	if in.Terminating != nil && *in.Terminating {
		out.Terminating = in.Terminating
	}
	return out
}

func gatewayMeta(in *metav1.ObjectMeta) metav1.ObjectMeta {
	return metav1.ObjectMeta{Name: in.Name, Namespace: in.Namespace}
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
