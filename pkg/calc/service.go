// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package calc

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/pkg/gateway"
)

// targets are the Backends of one port.
type targets = byFamily[gateway.Backend]

// resolve returns the Backends of each port of a Mapping: none where the Service does not allow it.
func (c *calculation) resolve(m *v1alpha1.Mapping, addresses []address) []targets {
	resolved := make([]targets, len(m.Spec.Ports))
	name := types.NamespacedName{Namespace: m.Namespace, Name: m.Spec.ServiceName}
	service := c.services[name]
	if reason, problem := serviceProblem(service, name, m.Spec.Mode); problem != "" {
		c.report(m, v1alpha1.ConditionResolvedRefs, reason, "spec.serviceName", "%s; connections are rejected", problem)
		return resolved
	}
	var families []netip.Addr // one address for each that is in use here and that the Service has
	for _, a := range addresses {
		switch {
		case !a.local:
		case !c.hasFamily(service, m.Spec.Mode, a.Is4()):
			c.report(m, v1alpha1.ConditionResolvedRefs, ReasonIPFamilyNotSupported, a.field(),
				"Service %s has no %s address for %s to lead to; connections to it are rejected", name, family(a.Is4()), a)
		case !slices.ContainsFunc(families, func(f netip.Addr) bool { return f.Is4() == a.Is4() }):
			families = append(families, a.Addr)
		}
	}
	for i, port := range m.Spec.Ports {
		if m.Spec.Mode == v1alpha1.ModeEndpoints && port.EndPort != nil {
			// A range leads straight to the pods; the Service need not list a thousand ports.
			resolved[i] = endpoints(c.slices[name], func(*discoveryv1.EndpointSlice) []uint16 { return []uint16{uint16(port.ServicePort)} })
		} else if servicePort := findPort(service, port); servicePort == nil {
			c.report(m, v1alpha1.ConditionResolvedRefs, ReasonServicePortNotFound, portField(i, "servicePort"),
				"Service %s has no port %d/%s, it has %s; connections are rejected", name, port.ServicePort, port.Protocol, listPorts(service))
			continue
		} else if m.Spec.Mode == v1alpha1.ModeService {
			resolved[i] = clusterIPs(service, uint16(port.ServicePort))
			continue
		} else {
			resolved[i] = endpoints(c.slices[name], func(s *discoveryv1.EndpointSlice) []uint16 { return portsNamed(s, servicePort) })
		}
		for _, a := range families {
			if len(resolved[i].of(a)) == 0 {
				c.report(m, v1alpha1.ConditionProgrammed, ReasonNoReadyEndpoints, portField(i, "servicePort"),
					"Service %s has no ready %s endpoint for port %d/%s; connections are rejected", name, family(a.Is4()), port.ServicePort, port.Protocol)
			}
		}
	}
	return resolved
}

func serviceProblem(s *corev1.Service, name types.NamespacedName, mode v1alpha1.Mode) (reason, problem string) {
	switch {
	case s == nil:
		return ReasonServiceNotFound, fmt.Sprintf("Service %s does not exist", name)
	case s.Spec.Type == corev1.ServiceTypeExternalName:
		return ReasonServiceExternalName, fmt.Sprintf("Service %s is of type ExternalName, which has no address in the cluster", name)
	case mode == v1alpha1.ModeEndpoints:
		return "", ""
	case s.Spec.ClusterIP == corev1.ClusterIPNone:
		return ReasonServiceHeadless, fmt.Sprintf("Service %s is headless (clusterIP: None), which needs mode endpoints", name)
	case len(serviceAddresses(s)) == 0:
		return ReasonNoClusterIP, fmt.Sprintf("Service %s has no clusterIP yet", name)
	}
	return "", ""
}

// serviceAddresses are the ClusterIPs.
func serviceAddresses(s *corev1.Service) []netip.Addr {
	texts := s.Spec.ClusterIPs
	if len(texts) == 0 {
		texts = []string{s.Spec.ClusterIP}
	}
	var addrs []netip.Addr
	for _, text := range texts {
		if a, err := netip.ParseAddr(text); err == nil {
			addrs = append(addrs, a.Unmap())
		}
	}
	return addrs
}

// hasFamily reports whether the Service can be reached by the family. A Service in a file may not say which ones it has;
// its slices do then, and without any there is nothing to complain about yet.
func (c *calculation) hasFamily(s *corev1.Service, mode v1alpha1.Mode, v4 bool) bool {
	if mode == v1alpha1.ModeService {
		return slices.ContainsFunc(serviceAddresses(s), func(a netip.Addr) bool { return a.Is4() == v4 })
	}
	if len(s.Spec.IPFamilies) > 0 {
		return slices.Contains(s.Spec.IPFamilies, corev1.IPFamily(family(v4)))
	}
	of := c.slices[types.NamespacedName{Namespace: s.Namespace, Name: s.Name}]
	return len(of) == 0 || slices.ContainsFunc(of, func(s *discoveryv1.EndpointSlice) bool {
		return s.AddressType == discoveryv1.AddressType(family(v4))
	})
}

// family is the name of a family, as Services and EndpointSlices spell it.
func family(v4 bool) string {
	if v4 {
		return string(corev1.IPv4Protocol)
	}
	return string(corev1.IPv6Protocol)
}

func clusterIPs(s *corev1.Service, port uint16) targets {
	var t targets
	for _, a := range serviceAddresses(s) {
		t.add(a, gateway.Backend{Address: a, Port: port})
	}
	return t
}

func findPort(s *corev1.Service, wanted v1alpha1.MappingPort) *corev1.ServicePort {
	for i := range s.Spec.Ports {
		if p := &s.Spec.Ports[i]; p.Port == wanted.ServicePort && protocol(p.Protocol) == string(wanted.Protocol) {
			return p
		}
	}
	return nil
}

// protocol spells a protocol as a defaulted Mapping does.
func protocol(p corev1.Protocol) string {
	return strings.ToLower(string(cmp.Or(p, corev1.ProtocolTCP)))
}

func listPorts(s *corev1.Service) string {
	if len(s.Spec.Ports) == 0 {
		return "none"
	}
	var list []string
	for _, p := range s.Spec.Ports {
		list = append(list, fmt.Sprintf("%d/%s", p.Port, protocol(p.Protocol)))
	}
	return strings.Join(list, ", ")
}
