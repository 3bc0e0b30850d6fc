// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package calctest

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/pkg/objects"
)

// Options are what tenants and administrators choose from.
type Options struct {
	Tenants, Grants int
	// GrantSteps is how many of a hundred steps are about grants.
	GrantSteps int
	// Addresses are external addresses, and Granted those, or networks of them, that PortGrants may be about. Sources are the networks
	// of clients, and Ports is the highest port.
	Addresses, Granted, Sources []string
	Ports                       int
	Protocols                   []v1alpha1.Protocol
	// Pod is the n-th address of a tenant's pods, of Pods, and ClusterIP that of its Service.
	Pod       func(tenant, n int) netip.Addr
	Pods      int
	ClusterIP func(tenant int) netip.Addr
	// Exact leaves out what the oracle Reached does not know: ranges, limits of grants, the mode service, and egress.
	Exact bool
}

// The port of all Services, another one that they may have instead, and the port of all pods.
const (
	servicePort = 80
	otherPort   = 81
	PodPort     = 8080
)

// Tenants are the objects of a cluster, and the state of the walk.
type Tenants struct {
	*rand.Rand
	Options
	// Counts has the number of steps of each kind.
	Counts map[string]int

	mappings   list[*v1alpha1.Mapping]
	grants     list[*v1alpha1.PortGrant]
	services   list[*corev1.Service]
	slices     list[*discoveryv1.EndpointSlice]
	namespaces list[*corev1.Namespace]

	parsed map[*v1alpha1.PortGrant]*grant
	// ruled are the grants that name each of the Addresses, by precedence.
	ruled map[netip.Addr][]*grant
	// about counts the changes of a tenant's objects other than Mappings, and grantings those of the grants for an address.
	about     map[string]int
	grantings map[netip.Addr]int
}

// list is sorted by namespace and name. Earlier Snapshots keep their list.
type list[T metav1.Object] []T

func compare[T metav1.Object](o T, key [2]string) int {
	return cmp.Or(strings.Compare(o.GetNamespace(), key[0]), strings.Compare(o.GetName(), key[1]))
}

func (l list[T]) find(namespace, name string) (found T) {
	if i, ok := slices.BinarySearchFunc(l, [2]string{namespace, name}, compare[T]); ok {
		found = l[i]
	}
	return found
}

func (l *list[T]) put(o T) {
	i, ok := slices.BinarySearchFunc(*l, [2]string{o.GetNamespace(), o.GetName()}, compare[T])
	if *l = slices.Clone(*l); ok {
		(*l)[i] = o
		return
	}
	*l = slices.Insert(*l, i, o)
}

func (l *list[T]) remove(namespace, name string) {
	if i, ok := slices.BinarySearchFunc(*l, [2]string{namespace, name}, compare[T]); ok {
		*l = slices.Delete(slices.Clone(*l), i, i+1)
	}
}

// New returns tenants with a Service and a pod each, and without Mappings.
func New(seed uint64, o Options) *Tenants {
	w := &Tenants{
		Rand: rand.New(rand.NewPCG(seed, seed)), Options: o, Counts: map[string]int{}, about: map[string]int{}, grantings: map[netip.Addr]int{},
		parsed: map[*v1alpha1.PortGrant]*grant{}, ruled: map[netip.Addr][]*grant{},
	}
	for i := range o.Tenants {
		w.label(i)
		w.services.put(w.service(i, true, servicePort))
		w.slices.put(w.slice(i, "echo-1", SliceController, w.Pod(i, 0)))
	}
	return w
}

// SliceController manages the slices that prove endpoints to be pods.
const SliceController = "endpointslice-controller.k8s.io"

// Namespace is the name of a tenant's namespace.
func Namespace(tenant int) string { return fmt.Sprintf("t%03d", tenant) }

// Snapshot returns the objects at the moment.
func (w *Tenants) Snapshot() objects.Snapshot {
	return objects.Snapshot{Mappings: w.mappings, Services: w.services, EndpointSlices: w.slices, PortGrants: w.grants, Namespaces: w.namespaces}
}

// Step changes an object, and says which.
func (w *Tenants) Step() string {
	i := w.IntN(w.Tenants)
	kind, name := w.step(i, Namespace(i))
	w.Counts[kind]++
	return kind + " " + name
}

func (w *Tenants) step(i int, namespace string) (kind, name string) {
	if w.IntN(100) < w.GrantSteps {
		return w.stepGrant()
	}
	w.about[namespace]++
	switch n := w.IntN(100); {
	case n < 55:
		w.about[namespace]--
		name = fmt.Sprintf("m%d", w.IntN(2))
		if w.IntN(4) == 0 {
			w.mappings.remove(namespace, name)
		} else {
			w.mappings.put(w.mapping(namespace, name))
		}
		return "Mapping", namespace + "/" + name
	case n < 65:
		w.label(i)
		return "Namespace", namespace
	case n < 78:
		w.slices.put(w.slice(i, "echo-1", SliceController, w.Pod(i, w.IntN(w.Pods))))
		return "EndpointSlice", namespace
	case n < 88: // by the tenant, perhaps with a pod of another one
		if w.IntN(2) == 0 {
			w.slices.remove(namespace, "mine")
		} else {
			w.slices.put(w.slice(i, "mine", pick(w, []string{"", "me"}), w.Pod(w.IntN(w.Tenants), w.IntN(w.Pods))))
		}
		return "EndpointSlice of a tenant", namespace
	default:
		if w.IntN(4) == 0 {
			w.services.remove(namespace, "echo")
		} else {
			w.services.put(w.service(i, w.IntN(4) > 0, pick(w, []int32{servicePort, servicePort, otherPort})))
		}
		return "Service", namespace
	}
}

func (w *Tenants) stepGrant() (kind, name string) {
	name = fmt.Sprint("g", w.IntN(w.Grants))
	before := w.parsed[w.grants.find("", name)]
	delete(w.parsed, w.grants.find("", name))
	var after *grant
	if w.IntN(4) == 0 {
		w.grants.remove("", name)
	} else {
		after = parse(w.grant(name))
		w.grants.put(after.PortGrant)
		w.parsed[after.PortGrant] = after
	}
	w.rule(before, after)
	return "PortGrant", name
}

func (w *Tenants) label(i int) {
	w.namespaces.put(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: Namespace(i), Labels: map[string]string{"tier": fmt.Sprint(w.IntN(3))}}})
}

func (w *Tenants) service(i int, selects bool, port int32) *corev1.Service {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: Namespace(i), Name: "echo"},
		Spec:       corev1.ServiceSpec{ClusterIP: w.ClusterIP(i).String()},
	}
	for _, protocol := range w.Protocols {
		p := corev1.ServicePort{Port: port, Protocol: corev1.Protocol(strings.ToUpper(string(protocol)))}
		p.Name = string(protocol)
		s.Spec.Ports = append(s.Spec.Ports, p)
	}
	if selects {
		s.Spec.Selector = map[string]string{"app": "echo"}
	}
	return s
}

func (w *Tenants) slice(i int, name, manager string, pod netip.Addr) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Namespace: Namespace(i), Name: name, Labels: map[string]string{
			discoveryv1.LabelServiceName: "echo", discoveryv1.LabelManagedBy: manager,
		}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{pod.String()}}},
	}
	for _, protocol := range w.Protocols {
		s.Ports = append(s.Ports, discoveryv1.EndpointPort{
			Name: ptr.To(string(protocol)), Port: ptr.To[int32](PodPort), Protocol: ptr.To(corev1.Protocol(strings.ToUpper(string(protocol)))),
		})
	}
	return s
}

func pick[T any](w *Tenants, from []T) T { return from[w.IntN(len(from))] }

func (w *Tenants) sources(most int) (sources []string) {
	for range w.IntN(most + 1) {
		if s := pick(w, w.Sources); !slices.Contains(sources, s) {
			sources = append(sources, s)
		}
	}
	return sources
}

func (w *Tenants) mapping(namespace, name string) *v1alpha1.Mapping {
	m := &v1alpha1.Mapping{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, CreationTimestamp: metav1.NewTime(time.Unix(int64(w.IntN(1000)), 0))},
		Spec: v1alpha1.MappingSpec{
			Addresses: []string{pick(w, w.Addresses)}, ServiceName: "echo", Mode: v1alpha1.ModeEndpoints, AllowedSources: w.sources(2),
			Egress: !w.Exact && w.IntN(3) == 0,
		},
	}
	if !w.Exact && w.IntN(5) == 0 {
		m.Spec.Mode = v1alpha1.ModeService
	}
	for port := 1 + w.IntN(w.Ports); port <= w.Ports && len(m.Spec.Ports) < 3; port += 1 + w.IntN(1+w.Ports/2) {
		p := v1alpha1.MappingPort{Port: int32(port), ServicePort: servicePort, Protocol: pick(w, w.Protocols)}
		if !w.Exact && m.Spec.Mode == v1alpha1.ModeEndpoints && w.IntN(3) == 0 {
			p.EndPort, p.ServicePort = ptr.To(int32(port+w.IntN(3))), PodPort
			port += 3
		}
		m.Spec.Ports = append(m.Spec.Ports, p)
	}
	return m
}

func (w *Tenants) grant(name string) *v1alpha1.PortGrant {
	g := &v1alpha1.PortGrant{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.PortGrantSpec{
		Addresses: []string{pick(w, w.Granted)}, Priority: int32(w.IntN(3)), Egress: w.IntN(2) == 0, EndpointsWithoutSelector: w.IntN(3) == 0,
		AllowedSources: w.sources(2),
	}}
	if !w.Exact {
		g.Spec.MaxPorts = int32(w.IntN(3) * 2)
	}
	if w.IntN(3) == 0 {
		g.Spec.NamespaceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"tier": fmt.Sprint(w.IntN(3))}}
	}
	for i := w.IntN(w.Tenants); i < w.Tenants && len(g.Spec.Namespaces) < 200; i += 1 + w.IntN(4) {
		g.Spec.Namespaces = append(g.Spec.Namespaces, Namespace(i))
	}
	for range w.IntN(3) {
		first := 1 + w.IntN(w.Ports)
		g.Spec.Ports = append(g.Spec.Ports, v1alpha1.GrantedPorts{
			Port: int32(first), EndPort: ptr.To(int32(max(first+w.IntN(2+w.Ports/2)-1, 1))), // a few are upside down
			Protocol: pick(w, append(slices.Clone(w.Protocols), "")),
		})
	}
	return g
}
