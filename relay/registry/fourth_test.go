// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/kube-openapi/pkg/spec3"

	"github.com/smartnat/smartnat/apis/kinds"
	"github.com/smartnat/smartnat/relay/filter"
	"github.com/smartnat/smartnat/relay/watchcache"
)

// configMaps is a row that adds a kind, in the same group as Services.
func configMaps() filter.Kind {
	kind := kinds.Define[corev1.ConfigMap, corev1.ConfigMapList](kinds.Names{
		GroupVersionResource: corev1.SchemeGroupVersion.WithResource("configmaps"),
		Kind:                 "ConfigMap", Singular: "configmap", ShortNames: []string{"cm"},
	}, func(m *corev1.ConfigMap) *corev1.ConfigMap {
		return &corev1.ConfigMap{TypeMeta: m.TypeMeta, ObjectMeta: metav1.ObjectMeta{
			Namespace: m.Namespace, Name: m.Name, ResourceVersion: m.ResourceVersion,
		}}
	})
	return filter.Kind{
		Kind: kind, Rule: filter.Always,
		Strip: func(o kinds.Object) kinds.Object {
			m := o.(*corev1.ConfigMap).DeepCopy()
			m.TypeMeta, m.Annotations = kind.TypeMeta(), nil
			return m
		},
		Service: func(kinds.Object) (types.NamespacedName, bool) { return types.NamespacedName{}, false },
	}
}

// TestAKindIsOneRow proves that a row is all that the relay needs to hold and serve another kind: in both encodings and
// both views, as a table, by watch, in discovery and in the OpenAPI document of a group that has another kind already.
func TestAKindIsOneRow(t *testing.T) {
	row := configMaps()
	cache := watchcache.NewOf(watchcache.NewEpoch(), 4, append(filter.Kinds(), row))
	for _, r := range cache.Resources() {
		if err := r.Store().Replace(nil, ""); err != nil {
			t.Fatal(err)
		}
	}
	config := serve(t, cache)
	put(t, cache, newMapping("m", "web"), newService("web"))
	one := &corev1.ConfigMap{ObjectMeta: named("shop", "settings"), Data: map[string]string{"a": "b"}}
	one.Annotations = map[string]string{"secret": "x"}
	if err := cache.Of(row.Kind).Store().Add(one); err != nil {
		t.Fatal(err)
	}

	for _, media := range []string{runtime.ContentTypeJSON, runtime.ContentTypeProtobuf} {
		config := rest.CopyConfig(config)
		config.ContentType, config.AcceptContentTypes = media, media
		client := must(kubernetes.NewForConfig(config))(t).CoreV1().ConfigMaps("")
		list := must(client.List(t.Context(), metav1.ListOptions{}))(t)
		if len(list.Items) != 1 || list.Items[0].Data["a"] != "b" || list.Items[0].Annotations != nil {
			t.Errorf("%s: list %+v", media, list.Items)
		}
		w := must(client.Watch(t.Context(), metav1.ListOptions{}))(t)
		if got, ok := (<-w.ResultChan()).Object.(*corev1.ConfigMap); !ok || got.Name != "settings" {
			t.Errorf("%s: watch sent %+v", media, got)
		}
		w.Stop()
		services := must(must(kubernetes.NewForConfig(config))(t).CoreV1().Services("shop").List(t.Context(), metav1.ListOptions{}))(t)
		if len(services.Items) != 1 {
			t.Errorf("%s: %d Services, want 1", media, len(services.Items))
		}
	}
	read := func(accept string, into any) {
		t.Helper()
		client := must(kubernetes.NewForConfig(config))(t).CoreV1().RESTClient()
		text := must(client.Get().Resource("configmaps").SetHeader("Accept", accept).Do(t.Context()).Raw())(t)
		if err := json.Unmarshal(text, into); err != nil {
			t.Fatal(err)
		}
	}
	var brief corev1.ConfigMapList
	if read("application/json;profile=gateway", &brief); len(brief.Items) != 1 || brief.Items[0].Data != nil {
		t.Errorf("for a gateway: %+v", brief.Items)
	}
	var table metav1.Table
	read("application/json;as=Table;v=v1;g=meta.k8s.io", &table)
	if len(table.Rows) != 1 || len(table.ColumnDefinitions) != 2 || table.Rows[0].Cells[0] != "settings" {
		t.Errorf("table: %+v", table)
	}

	client := must(discovery.NewDiscoveryClientForConfig(config))(t)
	for _, legacy := range []bool{false, true} {
		client.UseLegacyDiscovery = legacy
		_, lists, err := client.ServerGroupsAndResources()
		if err != nil {
			t.Fatal(err)
		}
		got := map[schema.GroupVersion][]string{}
		for _, list := range lists {
			gv := must(schema.ParseGroupVersion(list.GroupVersion))(t)
			for _, r := range list.APIResources {
				got[gv] = append(got[gv], r.Name)
			}
		}
		want := map[schema.GroupVersion][]string{}
		for _, r := range cache.Resources() {
			want[r.Kind().GroupVersion()] = append(want[r.Kind().GroupVersion()], r.Kind().Resource)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("discovery, legacy %t (-want +got):\n%s", legacy, diff)
		}
	}
	document := &spec3.OpenAPI{}
	if err := json.Unmarshal(must(must(client.OpenAPIV3().Paths())(t)["api/v1"].Schema(runtime.ContentTypeJSON))(t), document); err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{"Service", "ConfigMap"} {
		if ofKind(document.Components.Schemas, kind) == nil {
			t.Errorf("OpenAPI has no schema of %s", kind)
		}
	}
}
