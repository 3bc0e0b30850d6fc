// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package filter_test

import (
	"encoding/json"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/relay/filter"
	"github.com/smartnat/smartnat/relay/filter/filtertest"
)

// FuzzVisible proves for any objects that Visible does not panic, shows no Service that a valid Mapping of its namespace
// does not name, shows no slice of another Service, and is idempotent, and that the Index shows the same objects.
func FuzzVisible(f *testing.F) {
	for _, cluster := range []filtertest.Cluster{
		{},
		{
			Mappings: []*v1alpha1.Mapping{mapping("a", "web"), mapping("b", "")},
			Services: []*corev1.Service{{ObjectMeta: meta("shop", "web")}, {ObjectMeta: meta("bank", "web")}},
			EndpointSlices: []*discoveryv1.EndpointSlice{
				slice("shop", "web-1", map[string]string{discoveryv1.LabelServiceName: "web"}), slice("shop", "of-nothing", nil),
			},
		},
		{
			Mappings: []*v1alpha1.Mapping{filled[v1alpha1.Mapping]()}, Services: []*corev1.Service{filled[corev1.Service]()},
			EndpointSlices: []*discoveryv1.EndpointSlice{filled[discoveryv1.EndpointSlice]()},
		},
	} {
		text, err := json.Marshal(cluster)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var cluster filtertest.Cluster
		if json.Unmarshal(text, &cluster) != nil {
			return
		}
		// Informers never deliver nil.
		cluster.Mappings, cluster.Services = withoutNil(cluster.Mappings), withoutNil(cluster.Services)
		cluster.EndpointSlices = withoutNil(cluster.EndpointSlices)
		cluster.PortGrants, cluster.Namespaces = withoutNil(cluster.PortGrants), withoutNil(cluster.Namespaces)
		for _, n := range cluster.Namespaces {
			n.Namespace = "" // as the API server sends it
		}
		named := map[types.NamespacedName]bool{}
		for _, m := range cluster.Mappings {
			if service, valid := filter.ServiceOf(m); valid && service.Namespace == m.Namespace {
				named[service] = true
			}
		}
		out := filtertest.Visible(cluster)
		for _, s := range out.Services {
			if !named[types.NamespacedName{Namespace: s.Namespace, Name: s.Name}] || len(s.Annotations)+len(s.ManagedFields) > 0 {
				t.Errorf("Service %s/%s leaves the cluster", s.Namespace, s.Name)
			}
		}
		for _, s := range out.EndpointSlices {
			if !named[types.NamespacedName{Namespace: s.Namespace, Name: s.Labels[discoveryv1.LabelServiceName]}] || len(s.Annotations)+len(s.ManagedFields) > 0 {
				t.Errorf("EndpointSlice %s/%s leaves the cluster", s.Namespace, s.Name)
			}
		}
		if diff := cmp.Diff(filtertest.Visible(unique(cluster)), indexed(unique(cluster)).visible(), cmpopts.EquateEmpty(), cmpopts.SortSlices(before)); diff != "" {
			t.Errorf("the Index shows others (-plain function +Index):\n%s", diff)
		}
		if diff := cmp.Diff(out, filtertest.Visible(out), cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("not idempotent (-once +twice):\n%s", diff)
		}
	})
}

func withoutNil[T any](items []*T) []*T {
	return slices.DeleteFunc(items, func(item *T) bool { return item == nil })
}
