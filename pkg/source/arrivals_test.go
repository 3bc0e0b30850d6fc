// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package source

import (
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
)

// TestMappingsWaitForWhatTheyName proves that a Mapping appears after its Service and endpoints, whatever the order of
// events, if they arrive in time.
func TestMappingsWaitForWhatTheyName(t *testing.T) {
	named := metav1.ObjectMeta{Namespace: "ns", Name: "web"}
	service, other := &corev1.Service{ObjectMeta: named}, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "other", Name: "web"}}
	slice := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{
		Namespace: "ns", Name: "z-1", Labels: map[string]string{discoveryv1.LabelServiceName: "web"}}}
	stray := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{
		Namespace: "other", Name: "a-1", Labels: map[string]string{discoveryv1.LabelServiceName: "web"}}}
	mapping := func(mode v1alpha1.Mode, service string) *v1alpha1.Mapping {
		return &v1alpha1.Mapping{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "m"}, Spec: v1alpha1.MappingSpec{Mode: mode, ServiceName: service}}
	}
	byService, byEndpoints := mapping(v1alpha1.ModeService, "web"), mapping(v1alpha1.ModeEndpoints, "web")
	for _, test := range []struct {
		name   string
		events []any
		shown  bool
		waits  bool
	}{
		{"the Mapping alone", []any{byService}, false, true},
		{"the Service first", []any{service, byService}, true, false},
		{"the Mapping first", []any{byService, service}, true, false},
		{"a Service of another namespace", []any{byService, other}, false, true},
		{"endpoints last", []any{byEndpoints, service, slice}, true, false},
		{"endpoints first", []any{slice, byEndpoints, service}, true, false},
		{"endpoints of another namespace", []any{service, stray, byEndpoints}, false, true},
		{"endpoints that are not needed", []any{service, byService}, true, false},
		{"a change while it waits", []any{byService, mapping(v1alpha1.ModeService, "db"), service}, false, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := synced(func() {})
			for _, e := range test.events {
				c.set(e)
			}
			if got := len(c.Snapshot().Mappings) == 1; got != test.shown || (len(c.arrivals) == 1) != test.waits {
				t.Errorf("shown %v, %d waiting; want %v, %v", got, len(c.arrivals), test.shown, test.waits)
			}
			c.remove(byService)
			if len(c.Snapshot().Mappings) != 0 || len(c.arrivals) != 0 {
				t.Error("the Mapping is still there after its deletion")
			}
		})
	}
}

// TestMappingsDoNotWaitForEver proves that a Mapping waits once, for a bounded time, and then appears without its Service.
func TestMappingsDoNotWaitForEver(t *testing.T) {
	var told atomic.Int32
	c := synced(func() { told.Add(1) })
	m := &v1alpha1.Mapping{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "m"}, Spec: v1alpha1.MappingSpec{ServiceName: "none"}}
	c.set(m)
	if told.Load() != 0 {
		t.Error("the Mapping caused an event before it waited")
	}
	eventually(t, "the Mapping to appear without its Service", func() bool { return told.Load() == 1 && len(c.Snapshot().Mappings) == 1 })
	changed := m.DeepCopy()
	changed.Spec.Addresses = []string{"192.0.2.1"}
	c.set(changed)
	if got := c.Snapshot().Mappings; len(got[0].Spec.Addresses) != 1 || told.Load() != 2 {
		t.Errorf("a change of the Mapping waits again: %v", got)
	}
}

// synced returns a cluster source that has synced without objects.
func synced(changed func()) *cluster {
	c := &cluster{arrivals: map[types.NamespacedName]*arrival{}, changed: changed}
	c.synced.Store(true)
	return c
}
