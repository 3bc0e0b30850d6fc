// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package watchcache

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/relay/filter"
	"github.com/smartnat/smartnat/relay/filter/filtertest"
)

// scope returns what a gateway that is enrolled for addresses sees; without any, everything.
func scope(t *testing.T, addresses ...string) filter.Scope {
	t.Helper()
	if len(addresses) == 0 {
		return filter.Everything()
	}
	s, err := filter.ScopeOf(map[string]string{v1alpha1.AddressesAnnotation: strings.Join(addresses, ",")})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func exposing(name, service string, addresses ...string) *v1alpha1.Mapping {
	m := naming(name, service)
	m.Spec.Addresses = addresses
	return m
}

// gatewayWorld is a cluster whose gateways are enrolled for changing addresses and networks.
type gatewayWorld struct {
	*testing.T
	*rand.Rand
	cache   *Cache
	cluster [5]map[types.NamespacedName]Object
	// enrolled has the addresses of each gateway that is enrolled; none are all.
	enrolled map[string][]string
	clients  []*gatewayClient
}

// gatewayClient follows one kind as a gateway does.
type gatewayClient struct {
	gateway string
	kind    int
	at      Version
	held    map[types.NamespacedName]Object
}

var (
	gatewayNames = []string{"edge-1", "edge-2"}
	allAddresses = []string{"192.0.2.1", "192.0.2.2", "2001:db8::1"}
	// allNetworks have one or both of the addresses of IPv4, none, or that of IPv6.
	allNetworks = []string{"192.0.2.0/31", "192.0.2.0/30", "192.0.2.4/30", "2001:db8::/64"}
)

// TestPortionsConverge is a random walk through changes of a cluster and of what its gateways are enrolled for. A client that has read
// all events always holds filtertest.VisibleIn of the cluster, and no history has the content of an object that is out of scope.
func TestPortionsConverge(t *testing.T) {
	for seed := range uint64(60) {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			w := &gatewayWorld{T: t, Rand: rand.New(rand.NewPCG(seed, 1)), enrolled: map[string][]string{}}
			for kind := range w.cluster {
				w.cluster[kind] = map[types.NamespacedName]Object{}
			}
			w.cache = New(NewEpoch(), 8)
			w.cache.ExpectGateways()
			if listNothing(t, w.cache.Resources()...); w.cache.HasSynced() {
				t.Fatal("synced without the gateways")
			}
			if w.cache.SetGateways(nil); !w.cache.HasSynced() {
				t.Fatal("not synced with the gateways")
			}
			for _, gateway := range gatewayNames {
				for kind := range w.cluster {
					w.clients = append(w.clients, &gatewayClient{gateway: gateway, kind: kind})
				}
			}
			for range 400 {
				w.step()
			}
		})
	}
}

func (w *gatewayWorld) step() {
	if w.IntN(8) == 0 {
		w.enroll(gatewayNames[w.IntN(2)])
	} else {
		w.change()
	}
	for _, c := range w.clients {
		if w.IntN(3) == 0 {
			w.read(c)
		}
	}
}

// enroll enrolls a gateway for other addresses, or no longer.
func (w *gatewayWorld) enroll(gateway string) {
	addresses := slices.DeleteFunc(slices.Concat(allAddresses, allNetworks), func(string) bool { return w.IntN(3) > 0 })
	switch n := w.IntN(10); {
	case n == 0:
		delete(w.enrolled, gateway)
		w.cache.RemoveGateway(gateway)
		return
	case n < 3:
		w.enrolled[gateway] = addresses
		scopes := map[string]filter.Scope{}
		for name, of := range w.enrolled {
			scopes[name] = scope(w.T, of...)
		}
		w.cache.SetGateways(scopes)
		return
	}
	w.enrolled[gateway] = addresses
	w.cache.SetGateway(gateway, scope(w.T, addresses...))
}

// change creates, modifies or deletes a random object.
func (w *gatewayWorld) change() {
	name := func(n int) string { return fmt.Sprint("n", w.IntN(n)) }
	kind, namespace := w.IntN(5), fmt.Sprint("ns", w.IntN(2))
	of := w.cache.Resources()[kind]
	obj := of.Kind().New()
	switch o := obj.(type) {
	case *v1alpha1.Mapping:
		*o = *exposing(name(4), name(3), allAddresses[w.IntN(3)])
		o.Namespace, o.Generation = namespace, w.Int64N(9)
	case *corev1.Service:
		o.Name, o.Namespace, o.Spec.ClusterIP = name(3), namespace, name(200)
	case *discoveryv1.EndpointSlice:
		o.Name, o.Namespace, o.Labels = name(5), namespace, map[string]string{discoveryv1.LabelServiceName: name(3), "x": name(200)}
	case *v1alpha1.PortGrant:
		o.Name, o.Spec.Addresses, o.Spec.Priority = name(3), []string{w.pick(slices.Concat(allAddresses, allNetworks))}, w.Int32N(9)
	case *corev1.Namespace:
		o.Name, o.Labels = namespace, map[string]string{"x": name(200)}
	}
	obj.SetUID(types.UID(name(200)))
	var err error
	if _, there := w.cluster[kind][keyOf(obj)]; there && w.IntN(4) == 0 {
		delete(w.cluster[kind], keyOf(obj))
		err = of.Store().Delete(obj)
	} else {
		w.cluster[kind][keyOf(obj)] = obj
		err = of.Store().Update(obj)
	}
	if err != nil {
		w.Fatal(err)
	}
}

func (w *gatewayWorld) pick(from []string) string { return from[w.IntN(len(from))] }

// visible returns the objects of a kind that a gateway may see, by name.
func (w *gatewayWorld) visible(gateway string, kind int) map[types.NamespacedName]Object {
	var in filtertest.Cluster
	for _, objects := range w.cluster {
		for _, obj := range objects {
			switch o := obj.(type) {
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
	}
	out := filtertest.Visible(in)
	if of := w.enrolled[gateway]; len(of) > 0 {
		out = filtertest.VisibleIn(in, of...)
	}
	all := map[types.NamespacedName]Object{}
	switch w.cache.Resources()[kind].Kind().New().(type) {
	case *v1alpha1.Mapping:
		collect(all, out.Mappings)
	case *corev1.Service:
		collect(all, out.Services)
	case *discoveryv1.EndpointSlice:
		collect(all, out.EndpointSlices)
	case *v1alpha1.PortGrant:
		collect(all, out.PortGrants)
	case *corev1.Namespace:
		collect(all, out.Namespaces)
	}
	return all
}

func collect[P Object](into map[types.NamespacedName]Object, objects []P) {
	for _, o := range objects {
		into[keyOf(o)] = o
	}
}

// read lets a client read all events, or list if it has to, and compares.
func (w *gatewayWorld) read(c *gatewayClient) {
	portion, enrolled := w.cache.PortionOf(c.gateway)
	if _, want := w.enrolled[c.gateway]; enrolled != want {
		w.Fatalf("%s is enrolled: %v", c.gateway, enrolled)
	}
	if !enrolled {
		return
	}
	r := portion.Resources()[c.kind]
	events, at, _, err := r.Since(c.at)
	if errors.Is(err, ErrExpired) {
		var entries []*Entry
		c.held = map[types.NamespacedName]Object{}
		entries, c.at = r.List()
		for _, e := range entries {
			c.held[keyOf(e.Object)] = e.Object
		}
	}
	for _, e := range events {
		key := keyOf(e.Object.Object)
		// The history of an object that left the scope is only its deletion.
		if _, held := c.held[key]; held == (e.Type == watch.Added) && (held || e.Type != watch.Deleted) {
			w.Errorf("%s of %s, held: %v", e.Type, key, held)
		}
		if e.Version <= c.at {
			w.Errorf("version %s after %s", e.Version, c.at)
		}
		c.held[key], c.at = e.Object.Object, e.Version
		if e.Type == watch.Deleted {
			delete(c.held, key)
		}
	}
	c.at = max(c.at, at)
	got := map[types.NamespacedName]Object{}
	for key, obj := range c.held {
		got[key] = unversioned(obj)
	}
	if diff := cmp.Diff(w.visible(c.gateway, c.kind), got); diff != "" {
		w.Fatalf("%s, enrolled for %v (-want +got):\n%s", c.gateway, w.enrolled[c.gateway], diff)
	}
}

// TestNarrowedHistoryHasOnlyNames reads all that is left of the history after a gateway was limited: the deletions of what it may no
// longer see, which say nothing but its name.
func TestNarrowedHistoryHasOnlyNames(t *testing.T) {
	for name, before := range map[string][]string{"from everything": nil, "from two addresses": {"192.0.2.1", "192.0.2.2"}} {
		t.Run(name, func(t *testing.T) {
			c := synced(t)
			c.ExpectGateways()
			c.SetGateways(map[string]filter.Scope{"edge-1": scope(t, before...)})
			portion, _ := c.PortionOf("edge-1")
			_, start := portion.Mappings().List()
			update(t, c, exposing("mine", "web", "192.0.2.1"))
			update(t, c, exposing("other", "secret", "192.0.2.2"))
			if err := c.Services().Store().Update(&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "secret"}, Spec: corev1.ServiceSpec{ClusterIP: "10.96.0.66"}}); err != nil {
				t.Fatal(err)
			}
			// These are out of scope already when the gateway is limited.
			update(t, c, exposing("gone", "secret", "192.0.2.2"))
			if err := c.Mappings().Store().Delete(exposing("gone", "secret", "192.0.2.2")); err != nil {
				t.Fatal(err)
			}
			update(t, c, exposing("moved", "web", "192.0.2.2"))
			update(t, c, exposing("moved", "web", "192.0.2.1"))
			c.SetGateway("edge-1", scope(t, "192.0.2.1"))
			portion, _ = c.PortionOf("edge-1")
			var told []string
			for _, r := range portion.Resources() {
				events, _, _, err := r.Since(start)
				if err != nil {
					t.Fatal(err)
				}
				for _, e := range events {
					text, err := e.Object.JSON(Whole)
					if err != nil {
						t.Fatal(err)
					}
					told = append(told, fmt.Sprintf("%s %s", e.Type, e.Object.Object.GetName()))
					if strings.Contains(string(text), "192.0.2.2") || strings.Contains(string(text), "10.96.0.66") {
						t.Errorf("%s tells %s", e.Type, text)
					}
				}
			}
			slices.Sort(told)
			if want := []string{"ADDED mine", "DELETED gone", "DELETED other", "DELETED secret", "MODIFIED moved"}; !slices.Equal(told, want) {
				t.Errorf("events %q, want %q", told, want)
			}
		})
	}
}

// TestGatewayThatComesBack begins with versions of before: they lead to what the gateway sees now, or are expired.
func TestGatewayThatComesBack(t *testing.T) {
	c := synced(t)
	c.ExpectGateways()
	c.SetGateways(map[string]filter.Scope{"edge-1": scope(t, "192.0.2.1")})
	update(t, c, exposing("mine", "web", "192.0.2.1"))
	update(t, c, exposing("other", "web", "192.0.2.2"))
	portion, _ := c.PortionOf("edge-1")
	_, old := portion.Mappings().List()
	c.RemoveGateway("edge-1")
	if _, known := c.PortionOf("edge-1"); known {
		t.Error("a removed gateway sees something")
	}
	c.SetGateway("edge-1", filter.Everything())
	if portion, _ = c.PortionOf("edge-1"); portion.Mappings().Len() != 2 {
		t.Errorf("%d Mappings, want 2", portion.Mappings().Len())
	}
	held := map[string]bool{"mine": true}
	events, _, _, err := portion.Mappings().Since(old)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range events {
		held[e.Object.Object.GetName()] = e.Type != watch.Deleted
	}
	if !held["mine"] || !held["other"] {
		t.Errorf("holds %v", held)
	}
	c.SetGateway("edge-2", scope(t, "192.0.2.2"))
	portion, _ = c.PortionOf("edge-2")
	if _, _, _, err := portion.Mappings().Since(old); !errors.Is(err, ErrExpired) {
		t.Errorf("a version from before the gateway: %v, want ErrExpired", err)
	}
}
