// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"net/http"
	"net/http/httptest"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	genericfilters "k8s.io/apiserver/pkg/endpoints/filters"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/client-go/rest"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/relay/watchcache"
)

// withRequestInfo adds the RequestInfo that the API requires and the relay's server normally adds.
func withRequestInfo(api http.Handler) http.Handler {
	return genericfilters.WithRequestInfo(api, &request.RequestInfoFactory{
		APIPrefixes: sets.NewString("api", "apis"), GrouplessAPIPrefixes: sets.NewString("api"),
	})
}

// syncedCache returns a Cache that has synced with an empty cluster.
func syncedCache(t testing.TB, history int) *watchcache.Cache {
	t.Helper()
	cache := watchcache.New(watchcache.NewEpoch(), history)
	for _, r := range cache.Resources() {
		if err := r.Store().Replace(nil, ""); err != nil {
			t.Fatal(err)
		}
	}
	return cache
}

// serve serves a Cache without authentication until the test ends.
func serve(t *testing.T, cache *watchcache.Cache) *rest.Config {
	t.Helper()
	stopping := make(chan struct{})
	api, err := New(cache, stopping)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(withRequestInfo(api))
	t.Cleanup(func() { close(stopping); server.Close() })
	return &rest.Config{Host: server.URL, QPS: -1}
}

func named(namespace, name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: namespace, Name: name}
}

// put adds objects of any kind to a Cache.
func put(t testing.TB, cache *watchcache.Cache, objects ...watchcache.Object) {
	t.Helper()
	for _, obj := range objects {
		if err := resourceOf(cache, obj).Store().Update(obj); err != nil {
			t.Fatal(err)
		}
	}
}

func resourceOf(cache *watchcache.Cache, obj watchcache.Object) *watchcache.Resource {
	if _, ok := obj.(*v1alpha1.PortGrant); ok {
		return cache.PortGrants()
	}
	switch obj.(type) {
	case *corev1.Service:
		return cache.Services()
	case *discoveryv1.EndpointSlice:
		return cache.EndpointSlices()
	}
	return cache.Mappings()
}

func newMapping(name, service string) *v1alpha1.Mapping {
	return &v1alpha1.Mapping{ObjectMeta: named("shop", name), Spec: v1alpha1.MappingSpec{
		Addresses: []string{"192.0.2.1"}, ServiceName: service, Ports: []v1alpha1.MappingPort{{Port: 80}},
	}}
}

func newService(name string) *corev1.Service {
	s := &corev1.Service{ObjectMeta: named("shop", name), Spec: corev1.ServiceSpec{
		Type: corev1.ServiceTypeClusterIP, ClusterIP: "10.96.0.1", ClusterIPs: []string{"10.96.0.1"},
		Ports: []corev1.ServicePort{{Name: "http", Port: 80, Protocol: corev1.ProtocolTCP}},
	}}
	s.Labels, s.UID = map[string]string{"tier": name}, types.UID("uid-of-"+name)
	return s
}

func newSlice(name, service string, addresses ...string) *discoveryv1.EndpointSlice {
	port, ready := int32(8080), true
	s := &discoveryv1.EndpointSlice{ObjectMeta: named("shop", name), AddressType: discoveryv1.AddressTypeIPv4}
	s.Labels = map[string]string{discoveryv1.LabelServiceName: service}
	s.Ports = []discoveryv1.EndpointPort{{Port: &port}}
	for _, address := range addresses {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{address}, Conditions: discoveryv1.EndpointConditions{Ready: &ready},
		})
	}
	return s
}
