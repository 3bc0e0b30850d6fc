// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
)

// perNamespace is the number of Services in each namespace.
const perNamespace = 100

// object is the index of an object of each kind.
type object int

func (o object) namespace() string { return fmt.Sprintf("team-%03d", o/perNamespace) }
func (o object) name() string      { return fmt.Sprintf("service-%05d", o) }
func (o object) uid(kind int) types.UID {
	return types.UID(fmt.Sprintf("%08x-0000-4000-8000-%012x", kind, o))
}

// labels returns typical labels of a Helm chart.
func (o object) labels() map[string]string {
	return map[string]string{
		"app.kubernetes.io/name": o.name(), "app.kubernetes.io/instance": o.namespace(), "app.kubernetes.io/managed-by": "Helm",
	}
}

// clusterIP returns a fixed address, because the API server needs longer to allocate one the more exist.
func (o object) clusterIP() string { return fmt.Sprintf("10.96.%d.%d", 10+o/200, 10+o%200) }

// service returns a Service with two ports, as a chart creates it.
func (o object) service() *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{
			Name: o.name(), Namespace: o.namespace(), Labels: o.labels(),
			Annotations: map[string]string{"meta.helm.sh/release-name": o.name(), "meta.helm.sh/release-namespace": o.namespace()},
		},
		Spec: corev1.ServiceSpec{
			ClusterIP: o.clusterIP(),
			Selector:  map[string]string{"app.kubernetes.io/name": o.name(), "app.kubernetes.io/instance": o.namespace()},
			Ports: []corev1.ServicePort{
				{Name: "http", Port: 80, TargetPort: intstr.FromString("http")},
				{Name: "metrics", Port: 9090, TargetPort: intstr.FromString("metrics")},
			},
		},
	}
}

// slice returns an EndpointSlice as its controller creates it.
func (o object) slice(endpoints int) *discoveryv1.EndpointSlice {
	labels := o.labels()
	labels[discoveryv1.LabelServiceName] = o.name()
	labels[discoveryv1.LabelManagedBy] = "endpointslice-controller.k8s.io"
	s := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Name: o.name() + "-x7k2p", GenerateName: o.name() + "-", Namespace: o.namespace(), Labels: labels,
			Annotations: map[string]string{corev1.EndpointsLastChangeTriggerTime: "2026-01-02T03:04:05Z"},
			OwnerReferences: []metav1.OwnerReference{{
				APIVersion: "v1", Kind: "Service", Name: o.name(), UID: o.uid(1), Controller: new(true), BlockOwnerDeletion: new(true),
			}},
		},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports: []discoveryv1.EndpointPort{
			{Name: new("http"), Port: new(int32(8080)), Protocol: new(corev1.ProtocolTCP)},
			{Name: new("metrics"), Port: new(int32(9090)), Protocol: new(corev1.ProtocolTCP)},
		},
	}
	for k := range endpoints {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{
			Addresses:  []string{fmt.Sprintf("10.%d.%d.%d", 200+k, o/200, 10+o%200)},
			Conditions: discoveryv1.EndpointConditions{Ready: new(true), Serving: new(true), Terminating: new(false)},
			NodeName:   new(fmt.Sprintf("node-%03d", (int(o)+k)%200)),
			Zone:       new(fmt.Sprintf("zone-%d", k%3)),
			TargetRef:  &corev1.ObjectReference{Kind: "Pod", Namespace: o.namespace(), Name: fmt.Sprintf("%s-6d4cf56db6-x%04d", o.name(), k), UID: o.uid(2 + k)},
		})
	}
	return s
}

func (o object) mapping() *v1alpha1.Mapping {
	return &v1alpha1.Mapping{
		ObjectMeta: metav1.ObjectMeta{Name: o.name(), Namespace: o.namespace()},
		Spec: v1alpha1.MappingSpec{
			Addresses: []string{"198.51.100.10"}, ServiceName: o.name(), Mode: v1alpha1.ModeEndpoints,
			AllowedSources: []string{"192.0.2.0/24"},
			Ports:          []v1alpha1.MappingPort{{Port: int32(10000 + o), ServicePort: 80}},
		},
	}
}
