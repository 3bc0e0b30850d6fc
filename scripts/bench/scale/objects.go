// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/scripts/bench/ways"
	"github.com/smartnat/smartnat/scripts/lab"
)

const (
	namespace = "default"
	// portsPerAddress is the number of ports on one address.
	portsPerAddress = 40000
	// watched is the object whose endpoint changes. It has a single endpoint, so that each connection shows whether the change
	// is in effect, and its own target ports, which answer with the endpoint's address.
	watched      = 0
	watchedPorts = 9080
	// headlessFrom is the first object whose Service has no ClusterIP, because the API server needs longer to allocate one
	// the more exist. From there on SmartNat is the only contender, and it needs none.
	headlessFrom = 3000
)

// watchedHosts are the last bytes of the two addresses of the watched endpoint. No other endpoint has them.
var watchedHosts = [2]byte{252, 253}

// scenery is a variant of the objects and config.
type scenery struct {
	Family string `json:"family"`
	Mode   string `json:"mode"`
	// Targets is the layout of the target ports of an object's ten ports.
	Targets string `json:"targets"`
	// ForwardedOnly excludes connections that the gateway itself opens.
	ForwardedOnly bool `json:"forwardedOnly,omitempty"`
	// Tenants is a number of further namespaces, each with a PortGrant for the external addresses.
	Tenants int `json:"tenants,omitempty"`
}

const (
	// scattered targets cannot be written as a range, so each port needs a rule for each endpoint.
	scattered = "scattered"
	inARow    = "in a row"
)

func (s scenery) String() string {
	text := s.Family + ", " + s.Mode + ", targets " + s.Targets
	if s.ForwardedOnly {
		text += ", forwardedOnly"
	}
	if s.Tenants > 0 {
		text += fmt.Sprintf(", %d PortGrants", s.Tenants)
	}
	return text
}

// target returns the offset of the target of an object's k-th port.
func (s scenery) target(k int) int {
	if s.Targets == scattered {
		return k * 7 % ways.PortsPerMapping
	}
	return k
}

// external returns the address and port of the p-th exposed port.
func (s scenery) external(p int) netip.AddrPort {
	format := "198.51.100.1%d"
	if s.Family == "IPv6" {
		format = "2001:db8:1::1%d"
	}
	return netip.AddrPortFrom(netip.MustParseAddr(fmt.Sprintf(format, p/portsPerAddress)), uint16(ways.FirstPort+p%portsPerAddress))
}

// mapped returns all exposed ports.
func (s scenery) mapped(ports int) []netip.AddrPort {
	var all []netip.AddrPort
	for p := range ports {
		all = append(all, s.external(p))
	}
	return all
}

// watchedEndpoint returns the address of the watched endpoint after a number of changes.
func (s scenery) watchedEndpoint(changes int) netip.Addr {
	first := ways.Endpoint(s.Family, ways.PlainPods, 0, 0).AsSlice()
	first[len(first)-1] = watchedHosts[changes%2]
	address, _ := netip.AddrFromSlice(first)
	return address
}

// endpoints returns an object's endpoints and its first target port.
func (s scenery) endpoints(object int) (addresses []netip.Addr, target int) {
	if object == watched {
		return []netip.Addr{s.watchedEndpoint(0)}, watchedPorts
	}
	for k := range ways.Endpoints {
		addresses = append(addresses, ways.Endpoint(s.Family, ways.PlainPods, object, k))
	}
	return addresses, ways.FirstTarget
}

func objectName(object int) string { return fmt.Sprintf("bench-%05d", object) }

// service returns the object's Service, with its ports on the external address for kube-proxy.
func (s scenery) service(object int) *corev1.Service {
	_, target := s.endpoints(object)
	at := s.external(object * ways.PortsPerMapping)
	service := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: objectName(object)},
		Spec:       corev1.ServiceSpec{ExternalIPs: []string{at.Addr().String()}, IPFamilies: []corev1.IPFamily{corev1.IPFamily(s.Family)}},
	}
	if object >= headlessFrom {
		service.Spec.ClusterIP = corev1.ClusterIPNone
	}
	for k := range ways.PortsPerMapping {
		service.Spec.Ports = append(service.Spec.Ports, corev1.ServicePort{
			Name: fmt.Sprintf("p%d", k), Port: int32(at.Port()) + int32(k), TargetPort: intstr.FromInt32(int32(target + s.target(k))), Protocol: corev1.ProtocolTCP,
		})
	}
	return service
}

func (s scenery) slice(object int) *discoveryv1.EndpointSlice {
	addresses, target := s.endpoints(object)
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: objectName(object), Labels: map[string]string{discoveryv1.LabelServiceName: objectName(object)}},
		AddressType: discoveryv1.AddressType(s.Family),
	}
	for _, address := range addresses {
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{address.String()}, Conditions: discoveryv1.EndpointConditions{Ready: new(true)}, NodeName: new(lab.Node1),
		})
	}
	for k := range ways.PortsPerMapping {
		slice.Ports = append(slice.Ports, discoveryv1.EndpointPort{
			Name: new(fmt.Sprintf("p%d", k)), Port: new(int32(target + s.target(k))), Protocol: new(corev1.ProtocolTCP),
		})
	}
	return slice
}

func (s scenery) mapping(object int) *v1alpha1.Mapping {
	at := s.external(object * ways.PortsPerMapping)
	mapping := &v1alpha1.Mapping{
		ObjectMeta: metav1.ObjectMeta{Name: objectName(object)},
		Spec: v1alpha1.MappingSpec{
			Addresses: []string{at.Addr().String()}, ServiceName: objectName(object), Mode: v1alpha1.Mode(s.Mode),
		},
	}
	for k := range ways.PortsPerMapping {
		mapping.Spec.Ports = append(mapping.Spec.Ports, v1alpha1.MappingPort{Port: int32(at.Port()) + int32(k)})
	}
	return mapping
}

// externalNetworks are the networks of all external addresses.
func externalNetworks() []string { return []string{"198.51.100.0/24", "2001:db8:1::/64"} }

// tenant returns one of the further namespaces.
func tenant(number int) *corev1.Namespace {
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("tenant-%05d", number), Labels: map[string]string{"tier": fmt.Sprint(number % 10)}}}
}

// grant gives a namespace ten ports of the external addresses, or all of them to the namespace of the Mappings.
func grant(name string) *v1alpha1.PortGrant {
	g := &v1alpha1.PortGrant{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.PortGrantSpec{Addresses: externalNetworks(), Namespaces: []string{name}}}
	if name != namespace {
		g.Spec.Ports = []v1alpha1.GrantedPorts{{Port: ways.FirstPort, EndPort: new(int32(ways.FirstPort + 9))}}
	}
	return g
}
