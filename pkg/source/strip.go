// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package source

import (
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
)

// strip drops what no gateway uses. It saves memory, and what is not there cannot wake anyone when it changes.
func strip(object any) {
	switch o := object.(type) {
	case *v1alpha1.Mapping:
		o.ObjectMeta = stripMeta(o.ObjectMeta)
		o.Status = v1alpha1.MappingStatus{}
	case *corev1.Service:
		o.ObjectMeta = stripMeta(o.ObjectMeta)
		o.Status = corev1.ServiceStatus{}
		o.Spec = corev1.ServiceSpec{
			Type: o.Spec.Type, ClusterIP: o.Spec.ClusterIP, ClusterIPs: o.Spec.ClusterIPs, IPFamilies: o.Spec.IPFamilies,
			Ports: o.Spec.Ports, SessionAffinity: o.Spec.SessionAffinity, SessionAffinityConfig: o.Spec.SessionAffinityConfig,
		}
	case *discoveryv1.EndpointSlice:
		service := o.Labels[discoveryv1.LabelServiceName]
		o.ObjectMeta = stripMeta(o.ObjectMeta)
		o.Labels = map[string]string{discoveryv1.LabelServiceName: service}
		for i, e := range o.Endpoints {
			o.Endpoints[i] = discoveryv1.Endpoint{Addresses: e.Addresses, Conditions: e.Conditions}
		}
	}
}

func stripMeta(m metav1.ObjectMeta) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Name: m.Name, Namespace: m.Namespace, UID: m.UID, ResourceVersion: m.ResourceVersion,
		Generation: m.Generation, CreationTimestamp: m.CreationTimestamp,
	}
}

// differ reports whether two stripped versions of an object say different things.
func differ(old, current any) bool {
	before, ok1 := old.(runtime.Object)
	after, ok2 := current.(runtime.Object)
	if !ok1 || !ok2 {
		return true
	}
	copied := before.DeepCopyObject()
	if was, ok := copied.(metav1.Object); ok {
		if now, ok := after.(metav1.Object); ok {
			was.SetResourceVersion(now.GetResourceVersion())
		}
	}
	return !equality.Semantic.DeepEqual(copied, after)
}
