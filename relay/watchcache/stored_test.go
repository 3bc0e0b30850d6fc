// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"math/rand" //nolint:depguard // the fuzzer of Kubernetes takes no other
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/apitesting/fuzzer"
	metafuzzer "k8s.io/apimachinery/pkg/apis/meta/fuzzer"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"

	"github.com/smartnat/smartnat/relay/filter"
)

// TestPackedObjectsComeBackAsTheyWere proves with fuzzed objects that packing works for every Service and EndpointSlice,
// and that unpacking returns the same stripped object, also as JSON.
func TestPackedObjectsComeBackAsTheyWere(t *testing.T) {
	f := fuzzer.FuzzerFor(metafuzzer.Funcs, rand.NewSource(1), serializer.NewCodecFactory(runtime.NewScheme()))
	c := New(NewEpoch(), history)
	for range 500 {
		service, slice := &corev1.Service{}, &discoveryv1.EndpointSlice{}
		f.Fill(service)
		f.Fill(slice)
		for _, test := range []struct {
			r    *Resource
			obj  any
			want Object
		}{
			{c.Services(), service, filter.Service(service)},
			{c.EndpointSlices(), slice, filter.EndpointSlice(slice)},
		} {
			transformed, err := test.r.Store().Transformer()(test.obj)
			if err != nil {
				t.Fatal(err)
			}
			h := transformed.(*storedObject)
			if h.object != nil || len(h.packed) == 0 || h.key != keyOf(test.want) || h.service != serviceOf(test.r, test.want) {
				t.Fatalf("%+v", h)
			}
			test.r.unpack(h)
			if h.packed != nil {
				t.Error("the object is still packed")
			}
			if diff := cmp.Diff(asJSON(t, test.r, test.want), asJSON(t, test.r, h.object)); diff != "" || !test.r.kind.Same(h.object, test.want) {
				t.Fatalf("-want +got\n%s", diff)
			}
		}
	}
}

func serviceOf(r *Resource, obj Object) types.NamespacedName {
	service, ok := r.kind.Service(obj)
	if !ok {
		return types.NamespacedName{}
	}
	return service
}

func asJSON(t *testing.T, r *Resource, obj Object) string {
	t.Helper()
	text, err := newEntry(r.Kind(), obj, nil, 1).JSON(Whole)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestWhatNobodySeesIsPacked proves that invisible objects are packed and visible ones are not, while Mappings come and
// go.
func TestWhatNobodySeesIsPacked(t *testing.T) {
	c := synced(t)
	service := &corev1.Service{}
	service.Namespace, service.Name, service.Spec.ClusterIP = "shop", "web", "10.96.0.1"
	if err := c.Services().Store().Add(service); err != nil {
		t.Fatal(err)
	}
	check := func(seen bool) {
		t.Helper()
		h := c.Services().known[keyOf(service)]
		if (h.object != nil) != seen || (h.packed == nil) != seen || c.Services().Len() != len(c.Services().served) {
			t.Errorf("held as %+v, visible: %t", h, seen)
		}
		entry := c.Services().Get("shop", "web")
		if (entry != nil) != seen || seen && entry.Object.(*corev1.Service).Spec.ClusterIP != "10.96.0.1" {
			t.Errorf("served as %+v, visible: %t", entry, seen)
		}
	}
	check(false)
	update(t, c, naming("m", "web"))
	check(true)
	update(t, c, naming("m", "other"))
	check(false)
}
