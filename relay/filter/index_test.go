// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package filter_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/smartnat/smartnat/apis/kinds"
	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/relay/filter"
	"github.com/smartnat/smartnat/relay/filter/filtertest"
)

// world is a cluster that an Index follows.
type world struct {
	table []filter.Kind
	index *filter.Index
	// known holds the stripped objects. shown is what the results of Add and Remove said to be visible.
	known map[filter.Ref]kinds.Object
	shown map[filter.Ref]bool
	order []filter.Ref
}

func newWorld() *world {
	table := filter.Kinds()
	return &world{table: table, index: filter.NewIndex(table), known: map[filter.Ref]kinds.Object{}, shown: map[filter.Ref]bool{}}
}

// set replaces an object, or removes it if now is nil.
func (w *world) set(ref filter.Ref, now kinds.Object) {
	if old := w.known[ref]; old != nil {
		delete(w.known, ref)
		w.settle(w.index.Remove(ref, w.service(ref, old)))
	}
	if now != nil {
		now = w.table[ref.Kind].Strip(now)
		w.known[ref] = now
		w.settle(w.index.Add(ref, w.service(ref, now)))
	}
	w.settle([]filter.Ref{ref})
}

func (w *world) service(ref filter.Ref, object kinds.Object) types.NamespacedName {
	service, ok := w.table[ref.Kind].Service(object)
	if !ok {
		return types.NamespacedName{}
	}
	return service
}

// settle asks the Index about objects that changed or that it named.
func (w *world) settle(refs []filter.Ref) {
	for _, ref := range refs {
		object := w.known[ref]
		w.shown[ref] = object != nil && w.index.IsVisible(ref.Kind, object, w.service(ref, object))
	}
}

func (w *world) add(objects ...kinds.Object) {
	for _, object := range objects {
		kind := slices.IndexFunc(w.table, func(k filter.Kind) bool { return k.Is(object) })
		ref := filter.Ref{Kind: kind, Key: types.NamespacedName{Namespace: object.GetNamespace(), Name: object.GetName()}}
		if w.known[ref] == nil {
			w.order = append(w.order, ref)
		}
		w.set(ref, object)
	}
}

// indexed passes all objects to an Index, slices first and Mappings last.
func indexed(in filtertest.Cluster) *world {
	w := newWorld()
	for _, s := range in.EndpointSlices {
		w.add(s)
	}
	for _, s := range in.Services {
		w.add(s)
	}
	for _, g := range in.PortGrants {
		w.add(g)
	}
	for _, n := range in.Namespaces {
		w.add(n)
	}
	for _, m := range in.Mappings {
		w.add(m)
	}
	return w
}

// visible returns the objects that were shown, in the order of their first appearance.
func (w *world) visible() (out filtertest.Cluster) {
	for _, ref := range w.order {
		if !w.shown[ref] {
			continue
		}
		switch o := w.known[ref].(type) {
		case *v1alpha1.Mapping:
			out.Mappings = append(out.Mappings, o)
		case *corev1.Service:
			out.Services = append(out.Services, o)
		case *discoveryv1.EndpointSlice:
			out.EndpointSlices = append(out.EndpointSlices, o)
		case *v1alpha1.PortGrant:
			out.PortGrants = append(out.PortGrants, o)
		case *corev1.Namespace:
			out.Namespaces = append(out.Namespaces, o)
		}
	}
	return out
}

func before(a, b metav1.Object) bool {
	return a.GetNamespace()+"/"+a.GetName() < b.GetNamespace()+"/"+b.GetName()
}

// TestIndexFollowsAnyChanges is a random walk. After each change, the Index shows what Visible shows of the whole cluster,
// and it has named each object whose visibility changed.
func TestIndexFollowsAnyChanges(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	w := newWorld()
	name := func(n int) string { return fmt.Sprint("n", random.IntN(n)) }
	for step := range 500 {
		namespace := fmt.Sprint("ns", random.IntN(2))
		for _, object := range []kinds.Object{
			mapping(name(4), name(4), func(m *v1alpha1.Mapping) {
				m.Namespace = namespace
				m.Spec.Ports[0].Port = int32(65535 + random.IntN(4)/3) // one in four is invalid
			}),
			&corev1.Service{ObjectMeta: meta(namespace, name(4))},
			slice(namespace, name(6), map[string]string{discoveryv1.LabelServiceName: name(4)}),
			&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace, Labels: map[string]string{"step": fmt.Sprint(step)}}},
			&v1alpha1.PortGrant{ObjectMeta: metav1.ObjectMeta{Name: name(3)}},
		} {
			if random.IntN(3) > 0 {
				w.add(object)
			} else {
				kind := slices.IndexFunc(w.table, func(k filter.Kind) bool { return k.Is(object) })
				w.set(filter.Ref{Kind: kind, Key: types.NamespacedName{Namespace: object.GetNamespace(), Name: object.GetName()}}, nil)
			}
		}
		var in filtertest.Cluster
		for _, object := range w.known {
			switch o := object.(type) {
			case *v1alpha1.Mapping:
				in.Mappings = append(in.Mappings, o)
			case *corev1.Service:
				in.Services = append(in.Services, o)
			case *discoveryv1.EndpointSlice:
				in.EndpointSlices = append(in.EndpointSlices, o)
			case *v1alpha1.PortGrant:
				in.PortGrants = append(in.PortGrants, o)
			case *corev1.Namespace:
				in.Namespaces = append(in.Namespaces, o)
			}
		}
		got := w.visible()
		if diff := cmp.Diff(unique(filtertest.Visible(in)), unique(got), cmpopts.EquateEmpty(), cmpopts.SortSlices(before)); diff != "" {
			t.Fatalf("step %d (-want +got):\n%s", step, diff)
		}
	}
}

// unique keeps the last of the objects with the same name, as a cluster does.
func unique(c filtertest.Cluster) filtertest.Cluster {
	return filtertest.Cluster{Mappings: last(c.Mappings), Services: last(c.Services), EndpointSlices: last(c.EndpointSlices), PortGrants: last(c.PortGrants), Namespaces: last(c.Namespaces)}
}

func last[T metav1.Object](objects []T) (kept []T) {
	for i, object := range objects {
		if !slices.ContainsFunc(objects[i+1:], func(o T) bool {
			return o.GetNamespace() == object.GetNamespace() && o.GetName() == object.GetName()
		}) {
			kept = append(kept, object)
		}
	}
	return kept
}
