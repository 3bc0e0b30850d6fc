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
	// portsPerAddress is how many ports are exposed on an address before the next one's turn.
	portsPerAddress = 40000
	// watched is the object whose endpoint is changed, a few before the middle of a hundred. It has one endpoint, so that each
	// connection tells whether the change has arrived, and ports of its own there, which answer with the endpoint's address.
	watched      = 0
	watchedPorts = 9080
	// headlessFrom is the first object whose Service has no ClusterIP, since the API server takes the longer to find one the
	// more there are. Beyond it SmartNat is alone, and asks for none.
	headlessFrom = 3000
)

// watchedHosts are the last bytes of the addresses between which the watched endpoint moves; no other endpoint has them.
var watchedHosts = [2]byte{252, 253}

// scenery is what the objects of a run are made for.
type scenery struct {
	Family string `json:"family"`
	Mode   string `json:"mode"`
	// Targets says how the target ports of ten ports in a row lie.
	Targets string `json:"targets"`
	// ForwardedOnly has smartnatd leave alone what its host itself opens.
	ForwardedOnly bool `json:"forwardedOnly,omitempty"`
}

const (
	// scattered targets cannot be written as a range, so that each port is a rule for each endpoint.
	scattered = "scattered"
	inARow    = "in a row"
)

func (s scenery) String() string {
	text := s.Family + ", " + s.Mode + ", targets " + s.Targets
	if s.ForwardedOnly {
		text += ", forwardedOnly"
	}
	return text
}

// target is the port that the kth port of an object leads to, counted from its first.
func (s scenery) target(k int) int {
	if s.Targets == scattered {
		return k * 7 % ways.PortsPerMapping
	}
	return k
}

// external is the address that the pth port is exposed on.
func (s scenery) external(p int) netip.AddrPort {
	format := "198.51.100.1%d"
	if s.Family == "IPv6" {
		format = "2001:db8:1::1%d"
	}
	return netip.AddrPortFrom(netip.MustParseAddr(fmt.Sprintf(format, p/portsPerAddress)), uint16(ways.FirstPort+p%portsPerAddress))
}

// mapped are all ports.
func (s scenery) mapped(ports int) []netip.AddrPort {
	var all []netip.AddrPort
	for p := range ports {
		all = append(all, s.external(p))
	}
	return all
}

// watchedEndpoint is where the watched endpoint is after so many changes.
func (s scenery) watchedEndpoint(changes int) netip.Addr {
	first := ways.Endpoint(s.Family, ways.PlainPods, 0, 0).AsSlice()
	first[len(first)-1] = watchedHosts[changes%2]
	address, _ := netip.AddrFromSlice(first)
	return address
}

// endpoints of an object, and the first of its target ports.
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

// service has its ports on the external address too, which is what kube-proxy goes by.
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
