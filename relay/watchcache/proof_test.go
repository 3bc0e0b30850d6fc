// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"fmt"
	"runtime"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

const (
	proofEndpoints = 100_000
	proofPerSlice  = 10
)

// TestProofCost measures the relay's memory for a cluster of 100,000 endpoints with the data that proves endpoints to be
// pods: either a label of each slice and a selector of each Service, or each Pod reduced to its address and identity.
func TestProofCost(t *testing.T) {
	slices := func(proof bool) func() any {
		return func() any {
			c := New(NewEpoch(), 1)
			var services, all []any
			for i := range proofEndpoints / proofPerSlice {
				services, all = append(services, proofService(i, proof)), append(all, proofSlice(i, proof))
			}
			for r, objs := range map[*Resource][]any{c.Services(): services, c.EndpointSlices(): all} {
				for i, obj := range objs {
					packed, err := r.Store().Transformer()(obj)
					if err != nil {
						t.Fatal(err)
					}
					objs[i] = packed
				}
				if err := r.Store().Replace(objs, ""); err != nil {
					t.Fatal(err)
				}
			}
			return c
		}
	}
	pods := func() any {
		known := map[types.NamespacedName]*corev1.Pod{}
		for i := range proofEndpoints {
			name := fmt.Sprintf("echo-%d-7d9f8b6c5d-%05d", i/proofPerSlice, i)
			p := &corev1.Pod{
				ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID(fmt.Sprintf("00000000-0000-0000-0000-%012d", i))},
				Status:     corev1.PodStatus{PodIPs: []corev1.PodIP{{IP: podAddress(i)}}},
			}
			known[types.NamespacedName{Namespace: p.Namespace, Name: p.Name}] = p
		}
		return known
	}
	// The minimum for Pods: names and addresses.
	names := func() any {
		known := map[types.NamespacedName]string{}
		for key, p := range pods().(map[types.NamespacedName]*corev1.Pod) {
			known[key] = p.Status.PodIPs[0].IP
		}
		return known
	}
	without, with, watched, least := heapOf(slices(false)), heapOf(slices(true)), heapOf(pods), heapOf(names)
	t.Logf("%d endpoints: the relay holds %.1f MB, of which %.1f MB (%d B per endpoint) for label and selector; Pods would add %.1f MB (%d B), their names and addresses alone %.1f MB (%d B)",
		proofEndpoints, mega(with), mega(with-without), (with-without)/proofEndpoints, mega(watched), watched/proofEndpoints, mega(least), least/proofEndpoints)
	if with-without > least/4 {
		t.Errorf("label and selector take %d bytes, more than a quarter of the %d bytes of names and addresses of Pods", with-without, least)
	}
}

// heapOf returns the heap bytes that the result of f takes.
func heapOf(f func() any) int64 {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&before)
	held := f()
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&after)
	runtime.KeepAlive(held)
	return int64(after.HeapAlloc) - int64(before.HeapAlloc)
}

func mega(bytes int64) float64 { return float64(bytes) / 1e6 }

func podAddress(i int) string { return fmt.Sprintf("10.%d.%d.%d", 64+i>>16, i>>8&255, i&255) }

func proofService(i int, proof bool) *corev1.Service {
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: fmt.Sprint("echo-", i)}, Spec: corev1.ServiceSpec{
		ClusterIP: "10.96.0.1", Ports: []corev1.ServicePort{{Port: 80}},
	}}
	if proof {
		s.Spec.Selector = map[string]string{"app.kubernetes.io/name": s.Name}
	}
	return s
}

func proofSlice(i int, proof bool) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{
		Namespace: "shop", Name: fmt.Sprintf("echo-%d-abcde", i), Labels: map[string]string{discoveryv1.LabelServiceName: fmt.Sprint("echo-", i)},
	}, AddressType: discoveryv1.AddressTypeIPv4}
	if proof {
		s.Labels[discoveryv1.LabelManagedBy] = "endpointslice-controller.k8s.io"
	}
	for j := range proofPerSlice {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{podAddress(i*proofPerSlice + j)}})
	}
	return s
}
