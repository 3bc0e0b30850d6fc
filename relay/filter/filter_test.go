// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package filter_test

import (
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"github.com/smartnat/smartnat/apis/kinds"
	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/relay/filter"
	"github.com/smartnat/smartnat/relay/filter/filtertest"
)

var update = flag.Bool("update", false, "write the golden files instead of comparing with them")

// filled returns an object with every field set, so that the golden files show which fields leave.
func filled[T any]() *T {
	obj := new(T)
	fill(reflect.ValueOf(obj).Elem())
	return obj
}

func fill(v reflect.Value) {
	switch v.Interface().(type) {
	case metav1.Time, metav1.MicroTime:
		v.Field(0).Set(reflect.ValueOf(time.Unix(1, 0)))
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString("set")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int32, reflect.Int64:
		v.SetInt(1)
	case reflect.Uint8:
		v.SetUint('1')
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem())
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0))
	case reflect.Map:
		key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		fill(key)
		fill(value)
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(key, value)
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i))
		}
	default:
		panic("cannot fill a " + v.Type().String())
	}
}

// TestWhatLeavesTheCluster writes every field of each kind that can leave the cluster. Reviewers read the golden files as
// the list of these fields.
func TestWhatLeavesTheCluster(t *testing.T) {
	written := filled[v1alpha1.Mapping]()
	written.ManagedFields[0].Subresource, written.ManagedFields[0].Operation, written.ManagedFields[0].FieldsV1 = "", "Update", metav1.NewFieldsV1(`{"f:spec":{}}`)
	mapping, service, slice := filter.Mapping(written), filter.Service(filled[corev1.Service]()),
		filter.EndpointSlice(filled[discoveryv1.EndpointSlice]())
	grant, namespace := filter.PortGrant(filled[v1alpha1.PortGrant]()), filter.Namespace(filled[corev1.Namespace]())
	named, terminating := slice.DeepCopy(), false
	named.Labels[discoveryv1.LabelServiceName], named.Labels[discoveryv1.LabelManagedBy] = "set", "set"
	named.Endpoints[0].Conditions.Ready = &terminating
	for name, obj := range map[string]any{
		"mapping": mapping, "service": service, "endpointslice": slice,
		"gateway-mapping": kinds.Mapping.ForGateway(mapping), "gateway-service": kinds.Service.ForGateway(service),
		"gateway-endpointslice": kinds.EndpointSlice.ForGateway(named),
		"node-endpointslice":    kinds.EndpointSlice.ForGateway(filter.WithNodes(named, []string{"set"})),
		"portgrant":             grant, "namespace": namespace,
		"gateway-portgrant": kinds.PortGrant.ForGateway(grant), "gateway-namespace": kinds.Namespace.ForGateway(namespace),
	} {
		t.Run(name, func(t *testing.T) {
			got, err := yaml.Marshal(obj)
			if err != nil {
				t.Fatal(err)
			}
			file := filepath.Join("testdata", name+".yaml")
			if *update {
				if err := os.WriteFile(file, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), string(got)); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}

func meta(namespace, name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: namespace, Name: name}
}

// mapping returns a Mapping in the namespace shop.
func mapping(name, service string, change ...func(*v1alpha1.Mapping)) *v1alpha1.Mapping {
	m := &v1alpha1.Mapping{ObjectMeta: meta("shop", name), Spec: v1alpha1.MappingSpec{
		Addresses: []string{"192.0.2.1"}, ServiceName: service, Ports: []v1alpha1.MappingPort{{Port: 80}},
	}}
	for _, f := range change {
		f(m)
	}
	return m
}

func slice(namespace, name string, labels map[string]string) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{ObjectMeta: meta(namespace, name)}
	s.Labels = labels
	return s
}

func TestVisible(t *testing.T) {
	services := []*corev1.Service{{ObjectMeta: meta("shop", "web")}, {ObjectMeta: meta("shop", "db")}, {ObjectMeta: meta("bank", "web")}}
	slices := []*discoveryv1.EndpointSlice{
		slice("shop", "web-1", map[string]string{discoveryv1.LabelServiceName: "web"}),
		slice("shop", "web-2", map[string]string{discoveryv1.LabelServiceName: "web"}),
		slice("shop", "db-1", map[string]string{discoveryv1.LabelServiceName: "db"}),
		slice("shop", "of-nothing", nil),
		slice("bank", "web-1", map[string]string{discoveryv1.LabelServiceName: "web"}),
	}
	for _, test := range []struct {
		name     string
		mappings []*v1alpha1.Mapping
		want     []string
	}{
		{"no Mapping shows nothing", nil, nil},
		{"a Mapping shows the Service of its own namespace", []*v1alpha1.Mapping{mapping("a", "web")},
			[]string{"mapping shop/a", "service shop/web", "slice shop/web-1", "slice shop/web-2", "namespace /shop"}},
		{"two Mappings show a Service once", []*v1alpha1.Mapping{mapping("a", "web"), mapping("b", "web")},
			[]string{"mapping shop/a", "mapping shop/b", "service shop/web", "slice shop/web-1", "slice shop/web-2", "namespace /shop"}},
		{"a Service that does not exist shows nothing", []*v1alpha1.Mapping{mapping("a", "gone")}, []string{"mapping shop/a", "namespace /shop"}},
		{"an invalid Mapping shows only itself", []*v1alpha1.Mapping{
			mapping("a", "web", func(m *v1alpha1.Mapping) { m.Spec.Ports[0].Port = 70000 }),
		}, []string{"mapping shop/a"}},
		{"an empty Service name does not match slices without a Service", []*v1alpha1.Mapping{mapping("a", "")}, []string{"mapping shop/a"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			in := filtertest.Cluster{Mappings: test.mappings, Services: services, EndpointSlices: slices, Namespaces: []*corev1.Namespace{
				{ObjectMeta: meta("", "shop")}, {ObjectMeta: meta("", "bank")},
			}}
			if diff := cmp.Diff(test.want, names(filtertest.Visible(in))); diff != "" {
				t.Errorf("plain function: -want +got\n%s", diff)
			}
			if diff := cmp.Diff(test.want, names(indexed(in).visible())); diff != "" {
				t.Errorf("Index: -want +got\n%s", diff)
			}
		})
	}
}

func names(c filtertest.Cluster) []string {
	var all []string
	add := func(kind string, obj metav1.Object) {
		all = append(all, kind+" "+types.NamespacedName{Namespace: obj.GetNamespace(), Name: obj.GetName()}.String())
	}
	for _, m := range c.Mappings {
		add("mapping", m)
	}
	for _, s := range c.Services {
		add("service", s)
	}
	for _, s := range c.EndpointSlices {
		add("slice", s)
	}
	for _, n := range c.Namespaces {
		add("namespace", n)
	}
	return all
}

func TestStrippingChangesNothingOfTheOriginal(t *testing.T) {
	m, s, e := filled[v1alpha1.Mapping](), filled[corev1.Service](), filled[discoveryv1.EndpointSlice]()
	outM, outS, outE := filter.Mapping(m), filter.Service(s), filter.EndpointSlice(e)
	outM.Labels["new"], outS.Labels["new"], outE.Labels["new"] = "x", "x", "x"
	outM.Spec.Addresses[0], outS.Spec.ClusterIPs[0], outE.Endpoints[0].Addresses[0] = "x", "x", "x"
	*outE.Ports[0].Port, *outE.Endpoints[0].Conditions.Ready, *outS.Spec.SessionAffinityConfig.ClientIP.TimeoutSeconds = 0, false, 0
	for name, pair := range map[string][2]any{
		"mapping":       {filled[v1alpha1.Mapping](), m},
		"service":       {filled[corev1.Service](), s},
		"endpointslice": {filled[discoveryv1.EndpointSlice](), e},
	} {
		if diff := cmp.Diff(pair[0], pair[1]); diff != "" {
			t.Errorf("%s: -want +got\n%s", name, diff)
		}
	}
}
