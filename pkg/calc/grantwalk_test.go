// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package calc

import (
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/objects"
)

var operations = flag.Int("operations", 600, "length of the random walk of tenants")

// TestNothingIsForwardedWithoutAGrant is a random walk of 1,000 tenants, whose Mappings, endpoints, labels and PortGrants come, change
// and go. After each step, a State must not forward, or let pods leave by, anything that the PortGrants of that moment do not give the
// tenant, and it must be the State that a start would compute.
func TestNothingIsForwardedWithoutAGrant(t *testing.T) {
	w := newTenants()
	for step := range *operations {
		w.step()
		state, _ := w.calculator.Calculate(w.snapshot(), w.host)
		w.check(t, state)
		if step%200 == 199 {
			fresh, _ := Calculate(w.snapshot(), w.host, w.cfg)
			if got, want := spell(state), spell(fresh); got != want {
				t.Fatalf("after %d steps, a start would program something else", step+1)
			}
		}
		if t.Failed() {
			t.Fatalf("after %d steps", step+1)
		}
	}
	if w.forwarded == 0 || w.left == 0 {
		t.Errorf("%d Forwards and %d Egresses: the walk tests nothing", w.forwarded, w.left)
	}
}

const tenantCount = 1000

// tenants is a cluster of tenants, and a gateway.
type tenants struct {
	*rand.Rand
	cfg        config.Config
	host       gateway.Host
	calculator *Calculator
	mappings   map[string]*v1alpha1.Mapping
	grants     map[string]*v1alpha1.PortGrant
	namespaces [tenantCount]*corev1.Namespace
	services   []*corev1.Service
	slices     [tenantCount]*discoveryv1.EndpointSlice
	// forwarded and left count what was checked.
	forwarded, left int
}

func newTenants() *tenants {
	cfg := config.Default()
	cfg.Source = config.Source{Relay: &config.Relay{Servers: []string{"https://relay"}}}
	cfg.Uplinks = []config.Uplink{{Interface: "eth1"}}
	w := &tenants{
		Rand: rand.New(rand.NewPCG(22, 22)), cfg: cfg, calculator: NewCalculator(cfg), mappings: map[string]*v1alpha1.Mapping{}, grants: map[string]*v1alpha1.PortGrant{},
		host: gateway.Host{
			Links: []gateway.Link{
				{Name: "eth0", Up: true, Addresses: []netip.Prefix{netip.MustParsePrefix("10.10.0.2/24")}},
				{Name: "eth1", Up: true, Addresses: []netip.Prefix{netip.MustParsePrefix("198.51.100.1/24"), netip.MustParsePrefix("198.51.100.2/24"), netip.MustParsePrefix("198.51.100.3/24")}},
			},
			Routes: []gateway.Route{{Destination: netip.MustParsePrefix("10.244.0.0/16"), Link: "eth0", Gateway: netip.MustParseAddr("10.10.0.11")}},
		},
	}
	for i := range tenantCount {
		w.label(i)
		meta := metav1.ObjectMeta{Namespace: w.namespaces[i].Name, Name: "echo"}
		w.services = append(w.services, &corev1.Service{ObjectMeta: meta, Spec: corev1.ServiceSpec{
			ClusterIP: "None", Selector: map[string]string{"app": "echo"}, Ports: []corev1.ServicePort{{Port: 80}},
		}})
		w.endpoint(i)
	}
	return w
}

func (w *tenants) label(i int) {
	w.namespaces[i] = &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("t%03d", i), Labels: map[string]string{"tier": fmt.Sprint(w.IntN(3))}}}
}

func (w *tenants) endpoint(i int) {
	w.slices[i] = &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.namespaces[i].Name, Name: "echo-1", Labels: map[string]string{
			discoveryv1.LabelServiceName: "echo", discoveryv1.LabelManagedBy: SliceController,
		}},
		AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Name: ptr.To(""), Port: ptr.To[int32](8080)}},
		Endpoints: []discoveryv1.Endpoint{{Addresses: []string{fmt.Sprintf("10.244.%d.%d", i%200, 1+w.IntN(200))}}},
	}
}

func (w *tenants) address() string { return fmt.Sprintf("198.51.100.%d", 1+w.IntN(3)) }

func (w *tenants) source() string {
	return []string{"10.0.0.0/8", "10.1.0.0/16", "203.0.113.0/24", "0.0.0.0/0"}[w.IntN(4)]
}

// step changes one object.
func (w *tenants) step() {
	i := w.IntN(tenantCount)
	switch n := w.IntN(100); {
	case n < 60:
		name := fmt.Sprintf("%s/m%d", w.namespaces[i].Name, w.IntN(2))
		if w.IntN(4) == 0 {
			delete(w.mappings, name)
			return
		}
		w.mappings[name] = w.mapping(name)
	case n < 70:
		w.label(i)
	case n < 80:
		w.endpoint(i)
	case n < 85 && len(w.grants) > 10:
		names := slices.Sorted(maps.Keys(w.grants))
		delete(w.grants, names[w.IntN(len(names))])
	default:
		name := fmt.Sprint("g", w.IntN(30))
		w.grants[name] = w.grant(name)
	}
}

func (w *tenants) mapping(key string) *v1alpha1.Mapping {
	namespace, name, _ := strings.Cut(key, "/")
	m := &v1alpha1.Mapping{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, CreationTimestamp: metav1.NewTime(time.Unix(int64(w.IntN(1000)), 0))},
		Spec: v1alpha1.MappingSpec{
			Addresses: []string{w.address()}, ServiceName: "echo", Mode: v1alpha1.ModeEndpoints, Egress: w.IntN(3) == 0,
		},
	}
	for port := 1 + w.IntN(200); port < 300 && len(m.Spec.Ports) < 3; port += 1 + w.IntN(100) {
		p := v1alpha1.MappingPort{Port: int32(port), ServicePort: 80}
		if w.IntN(3) == 0 {
			p.EndPort, p.ServicePort = ptr.To(int32(port+w.IntN(3))), 8080
			port += 3
		}
		m.Spec.Ports = append(m.Spec.Ports, p)
	}
	for range w.IntN(3) {
		if source := w.source(); !slices.Contains(m.Spec.AllowedSources, source) {
			m.Spec.AllowedSources = append(m.Spec.AllowedSources, source)
		}
	}
	return m
}

func (w *tenants) grant(name string) *v1alpha1.PortGrant {
	g := &v1alpha1.PortGrant{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.PortGrantSpec{
		Addresses: []string{w.address()}, Priority: int32(w.IntN(3)), MaxPorts: int32(w.IntN(3) * 2), Egress: w.IntN(2) == 0,
	}}
	if w.IntN(3) == 0 {
		g.Spec.NamespaceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"tier": fmt.Sprint(w.IntN(3))}}
	}
	for i := w.IntN(tenantCount); i < tenantCount && len(g.Spec.Namespaces) < 200; i += 1 + w.IntN(4) {
		g.Spec.Namespaces = append(g.Spec.Namespaces, w.namespaces[i].Name)
	}
	for range w.IntN(3) {
		first := int32(1 + w.IntN(250))
		g.Spec.Ports = append(g.Spec.Ports, v1alpha1.GrantedPorts{Port: first, EndPort: ptr.To(first + int32(w.IntN(100)) - 2)}) // a few are upside down
	}
	for range w.IntN(2) {
		g.Spec.AllowedSources = append(g.Spec.AllowedSources, w.source())
	}
	return g
}

func (w *tenants) snapshot() objects.Snapshot {
	s := objects.Snapshot{Services: w.services, EndpointSlices: w.slices[:], Namespaces: slices.Clone(w.namespaces[:])}
	s.EndpointSlices = slices.Clone(s.EndpointSlices)
	for _, name := range slices.Sorted(maps.Keys(w.mappings)) {
		s.Mappings = append(s.Mappings, w.mappings[name])
	}
	for _, name := range slices.Sorted(maps.Keys(w.grants)) {
		s.PortGrants = append(s.PortGrants, w.grants[name])
	}
	return s
}

// check compares a State with the specs of the PortGrants, without the code under test.
func (w *tenants) check(t *testing.T, state gateway.State) {
	t.Helper()
	covered := map[string]bool{}
	for _, g := range w.grants {
		covered[g.Spec.Addresses[0]] = true
	}
	for _, f := range state.Forwards {
		w.forwarded++
		namespace, _, _ := strings.Cut(f.Owner, "/")
		if covered[f.Address.String()] && !w.allowed(namespace, f) {
			t.Errorf("%s of %s is forwarded for %v without a grant", f.Frontend, f.Owner, f.Sources)
		}
	}
	for _, e := range state.Egresses {
		w.left++
		namespace, _, _ := strings.Cut(e.Owner, "/")
		if covered[e.Address.String()] && !slices.ContainsFunc(w.grantsOf(namespace, e.Address), func(g *v1alpha1.PortGrant) bool { return g.Spec.Egress }) {
			t.Errorf("pods of %s leave with %s without a grant", e.Owner, e.Address)
		}
	}
}

// grantsOf returns the valid PortGrants of a namespace for an address.
func (w *tenants) grantsOf(namespace string, a netip.Addr) []*v1alpha1.PortGrant {
	var found []*v1alpha1.PortGrant
	number, err := strconv.Atoi(strings.TrimPrefix(namespace, "t"))
	if err != nil {
		return nil
	}
	for _, g := range w.grants {
		if g.Spec.Addresses[0] != a.String() {
			continue
		}
		upsideDown := slices.ContainsFunc(g.Spec.Ports, func(p v1alpha1.GrantedPorts) bool { return *p.EndPort < p.Port || *p.EndPort < 1 })
		_, selected := slices.BinarySearch(g.Spec.Namespaces, namespace)
		if s := g.Spec.NamespaceSelector; s != nil {
			selected = selected || w.namespaces[number].Labels["tier"] == s.MatchLabels["tier"]
		}
		if selected && !upsideDown {
			found = append(found, g)
		}
	}
	return found
}

func (w *tenants) allowed(namespace string, f *gateway.Forward) bool {
	return slices.ContainsFunc(w.grantsOf(namespace, f.Address), func(g *v1alpha1.PortGrant) bool {
		ports := len(g.Spec.Ports) == 0 || slices.ContainsFunc(g.Spec.Ports, func(p v1alpha1.GrantedPorts) bool {
			return p.Port <= int32(f.Ports.First) && int32(f.Ports.Last) <= *p.EndPort
		})
		if len(g.Spec.AllowedSources) == 0 {
			return ports
		}
		widest := netip.MustParsePrefix(g.Spec.AllowedSources[0])
		return ports && len(f.Sources) > 0 && !slices.ContainsFunc(f.Sources, func(s netip.Prefix) bool {
			return s.Bits() < widest.Bits() || !widest.Contains(s.Addr())
		})
	})
}

// spell returns all that a State forwards.
func spell(state gateway.State) string {
	var text strings.Builder
	for _, f := range state.Forwards {
		fmt.Fprintf(&text, "%+v\n", *f)
	}
	for _, e := range state.Egresses {
		fmt.Fprintf(&text, "%+v\n", e)
	}
	return text.String()
}
