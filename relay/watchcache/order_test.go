// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
)

// TestAMappingIsShownAfterItsServiceAndHiddenBeforeIt proves that events of all kinds, in the order of their versions,
// never show a Mapping without the Service that it names.
func TestAMappingIsShownAfterItsServiceAndHiddenBeforeIt(t *testing.T) {
	c := New(NewEpoch(), 100)
	meta := func(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: "shop", Name: name} }
	var services, all []any
	for _, name := range []string{"a", "b"} {
		slice := &discoveryv1.EndpointSlice{ObjectMeta: meta(name + "-1")}
		slice.Labels = map[string]string{discoveryv1.LabelServiceName: name}
		services, all = append(services, &corev1.Service{ObjectMeta: meta(name)}), append(all, slice)
	}
	mapping := func(service string) *v1alpha1.Mapping {
		return &v1alpha1.Mapping{ObjectMeta: meta("m"), Spec: v1alpha1.MappingSpec{
			Addresses: []string{"192.0.2.1"}, ServiceName: service, Ports: []v1alpha1.MappingPort{{Port: 80}},
		}}
	}
	for r, objs := range map[*Resource][]any{
		c.Mappings(): nil, c.Services(): services, c.EndpointSlices(): all, c.PortGrants(): nil,
		c.Namespaces(): {&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: meta("m").Namespace}}, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "hidden"}}},
	} {
		if err := r.Store().Replace(objs, ""); err != nil {
			t.Fatal(err)
		}
	}
	_, start := c.Mappings().List()
	for _, step := range []error{c.Mappings().Store().Add(mapping("a")), c.Mappings().Store().Update(mapping("b")), c.Mappings().Store().Delete(mapping("b"))} {
		if step != nil {
			t.Fatal(step)
		}
	}
	var events []Event
	for _, r := range c.Resources() {
		some, _, _, err := r.Since(start)
		if err != nil {
			t.Fatal(err)
		}
		events = append(events, some...)
	}
	slices.SortFunc(events, func(a, b Event) int { return int(int64(a.Version) - int64(b.Version)) })
	var got []string
	for _, e := range events {
		got = append(got, fmt.Sprintf("%s %s", e.Type, e.Object.Object.GetName()))
	}
	want := []string{
		"ADDED a", "ADDED a-1", "ADDED shop", "ADDED m",
		"ADDED b", "ADDED b-1", "MODIFIED m", "DELETED a", "DELETED a-1",
		"DELETED m", "DELETED b", "DELETED b-1", "DELETED shop",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}
