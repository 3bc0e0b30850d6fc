// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/smartnat/smartnat/apis/kinds"
	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/relay/filter/filtertest"
)

// TestWatchersConverge is a random walk through changes of a cluster, lost connections to it, restarts of relays, and
// watchers that fall behind, move to another relay or list again. A watcher that has read all events always holds
// filtertest.Visible of the cluster, and it has seen each change of an object once and in order.
func TestWatchersConverge(t *testing.T) {
	for seed := range uint64(100) {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			w := newWorld(t, seed)
			for step := range 300 {
				w.step()
				if step%10 == 9 {
					w.check()
				}
			}
		})
	}
}

// world is a cluster, two relays that mirror it, and watchers of these relays.
type world struct {
	*testing.T
	*rand.Rand
	cluster  [3]map[types.NamespacedName]Object
	relays   [2]*Cache
	watchers []*watcher
	changes  int
}

// watcher follows one kind as a client does.
type watcher struct {
	kind, relay int
	at          Version
	held        map[types.NamespacedName]Object
}

func newWorld(t *testing.T, seed uint64) *world {
	w := &world{T: t, Rand: rand.New(rand.NewPCG(seed, 0))}
	for kind := range w.cluster {
		w.cluster[kind] = map[types.NamespacedName]Object{}
	}
	for i := range w.relays {
		w.restart(i)
	}
	for i := range 9 {
		w.watchers = append(w.watchers, &watcher{kind: i % 3, relay: w.IntN(2)})
	}
	return w
}

// resourcesOf returns the Resources in the order of the world's kinds.
func resourcesOf(c *Cache) [3]*Resource {
	return [3]*Resource{c.Mappings(), c.Services(), c.EndpointSlices()}
}

// listNothing ends the sync of kinds without objects.
func listNothing(t *testing.T, of ...*Resource) {
	t.Helper()
	for _, r := range of {
		if err := r.Store().Replace(nil, ""); err != nil {
			t.Fatal(err)
		}
	}
}

func (w *world) step() {
	switch n := w.IntN(100); {
	case n < 1:
		w.restart(w.IntN(2))
	case n < 3:
		// The relay loses its connection and later lists what changed meanwhile.
		for range w.IntN(5) {
			w.change(false)
		}
		for i := range w.relays {
			w.list(i)
		}
	case n < 6:
		watcher := w.watchers[w.IntN(len(w.watchers))]
		watcher.relay = 1 - watcher.relay
	case n < 30:
		w.read(w.watchers[w.IntN(len(w.watchers))])
	default:
		w.change(true)
	}
}

// restart replaces a relay by a new process.
func (w *world) restart(i int) {
	w.relays[i] = New(NewEpoch(), 8)
	w.list(i)
}

func (w *world) list(relay int) {
	listNothing(w.T, w.relays[relay].PortGrants(), w.relays[relay].Namespaces())
	for kind, r := range resourcesOf(w.relays[relay]) {
		var objs []any
		for _, obj := range w.cluster[kind] {
			objs = append(objs, obj)
		}
		if err := r.Store().Replace(objs, ""); err != nil {
			w.Fatal(err)
		}
	}
}

// change creates, modifies or deletes a random object. If tell is true, the relays receive the event.
func (w *world) change(tell bool) {
	w.changes++
	kind := w.IntN(3)
	obj := w.object(kind)
	key := keyOf(obj)
	old := w.cluster[kind][key]
	if old != nil && w.IntN(3) == 0 {
		delete(w.cluster[kind], key)
		if tell {
			for _, c := range w.relays {
				if err := resourcesOf(c)[kind].Store().Delete(old); err != nil {
					w.Fatal(err)
				}
			}
		}
		return
	}
	if old != nil && w.IntN(4) > 0 {
		obj.SetUID(old.GetUID())
	}
	w.cluster[kind][key] = obj
	if tell {
		for _, c := range w.relays {
			if err := resourcesOf(c)[kind].Store().Update(obj); err != nil {
				w.Fatal(err)
			}
		}
	}
}

// object returns a random object. There are few names, so that references hit.
func (w *world) object(kind int) Object {
	meta := metav1.ObjectMeta{
		Namespace: fmt.Sprint("ns", w.IntN(2)), Name: fmt.Sprint("n", w.IntN(4)),
		UID: types.UID(fmt.Sprint(w.changes)), ResourceVersion: fmt.Sprint(w.changes), Generation: w.Int64N(2),
		Annotations: map[string]string{"of-no-interest": fmt.Sprint(w.changes)},
	}
	service := fmt.Sprint("n", w.IntN(4))
	switch kind {
	case 0:
		port := int32(80)
		if w.IntN(5) == 0 {
			port = 0 // invalid
		}
		return &v1alpha1.Mapping{ObjectMeta: meta, Spec: v1alpha1.MappingSpec{
			Addresses: []string{"192.0.2.1"}, ServiceName: service, Ports: []v1alpha1.MappingPort{{Port: port}},
		}}
	case 1:
		return &corev1.Service{ObjectMeta: meta, Spec: corev1.ServiceSpec{ClusterIP: "10.96.0.1"}}
	default:
		if w.IntN(8) > 0 {
			meta.Labels = map[string]string{discoveryv1.LabelServiceName: service}
		}
		return &discoveryv1.EndpointSlice{ObjectMeta: meta}
	}
}

// read lets a watcher read the events after its position, or list if that is expired.
func (w *world) read(c *watcher) {
	r := resourcesOf(w.relays[c.relay])[c.kind]
	events, at, _, err := r.Since(c.at)
	if errors.Is(err, ErrExpired) {
		entries, version := r.List()
		c.at, c.held = version, map[types.NamespacedName]Object{}
		for _, e := range entries {
			c.held[keyOf(e.Object)] = e.Object
		}
		return
	}
	if err != nil {
		w.Fatal(err)
	}
	for _, e := range events {
		w.apply(c, e)
	}
	c.at = at
}

func (w *world) apply(c *watcher, e Event) {
	obj := e.Object.Object
	key := keyOf(obj)
	held := c.held[key]
	if e.Version <= c.at || obj.GetResourceVersion() != e.Version.String() {
		w.Errorf("%s %s at %s, of version %s, after %s", e.Type, key, e.Version, obj.GetResourceVersion(), c.at)
	}
	if (e.Type == watch.Added) != (held == nil) {
		w.Errorf("%s %s, while the watcher holds %v", e.Type, key, held)
	}
	if held != nil && (e.Old == nil || e.Old.Object.GetResourceVersion() != held.GetResourceVersion()) {
		w.Errorf("%s %s: a change since %s is missing", e.Type, key, held.GetResourceVersion())
	}
	if held != nil && e.Type == watch.Modified && resourcesOf(w.relays[c.relay])[c.kind].kind.Same(obj, unversioned(held)) {
		w.Errorf("%s %s without a change", e.Type, key)
	}
	c.at = e.Version
	if e.Type == watch.Deleted {
		delete(c.held, key)
	} else {
		c.held[key] = obj
	}
}

// check lets all watchers catch up and compares their objects with filtertest.Visible.
func (w *world) check() {
	want := w.visible()
	for _, c := range w.watchers {
		w.read(c)
		got := map[types.NamespacedName]Object{}
		for key, obj := range c.held {
			got[key] = unversioned(obj)
		}
		if diff := cmp.Diff(want[c.kind], got); diff != "" {
			w.Fatalf("kind %d after %d changes (-want +got)\n%s", c.kind, w.changes, diff)
		}
	}
}

func (w *world) visible() [3]map[types.NamespacedName]Object {
	var in filtertest.Cluster
	for _, obj := range w.cluster[0] {
		in.Mappings = append(in.Mappings, obj.(*v1alpha1.Mapping))
	}
	for _, obj := range w.cluster[1] {
		in.Services = append(in.Services, obj.(*corev1.Service))
	}
	for _, obj := range w.cluster[2] {
		in.EndpointSlices = append(in.EndpointSlices, obj.(*discoveryv1.EndpointSlice))
	}
	out := filtertest.Visible(in)
	var all [3]map[types.NamespacedName]Object
	for kind := range all {
		all[kind] = map[types.NamespacedName]Object{}
	}
	for _, obj := range out.Mappings {
		all[0][keyOf(obj)] = obj
	}
	for _, obj := range out.Services {
		all[1][keyOf(obj)] = obj
	}
	for _, obj := range out.EndpointSlices {
		all[2][keyOf(obj)] = obj
	}
	return all
}

func unversioned(obj Object) Object {
	return kinds.Of(obj).WithVersion(obj, "")
}
