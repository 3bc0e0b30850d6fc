// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package calc

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/pkg/finding"
	"github.com/smartnat/smartnat/pkg/gateway"
)

// backing is where a Mapping leads.
type backing struct {
	// targets has an item for each port of the Mapping, empty if the Service does not allow it.
	targets []targets
	// affinity is how long a client keeps its endpoint.
	affinity time.Duration
	// pods are all endpoints, regardless of their ports and conditions.
	pods byFamily[netip.Addr]
	// local are the endpoints that are pods of this node.
	local []netip.Addr
	// clusterIPs are the destinations in mode service.
	clusterIPs []netip.Addr
}

func (c *calculation) backing(m *v1alpha1.Mapping, addresses []address, sources []netip.Prefix) backing {
	c.anyEndpoint = c.cfg.EndpointsWithoutSelector || c.grantsAnyEndpoint(m, addresses, sources)
	b := backing{targets: make([]targets, len(m.Spec.Ports))}
	name := serviceNamedBy(m)
	service := c.services[name]
	if reason, problem := serviceProblem(service, name, m.Spec.Mode); problem != "" {
		c.report(m, v1alpha1.ConditionResolvedRefs, reason, "spec.serviceName", "%s; connections are rejected", problem)
		return b
	}
	var families []netip.Addr // one address for each family that is in use here and that the Service has
	for _, a := range addresses {
		switch {
		case a.place != here:
		case !c.hasFamily(service, m.Spec.Mode, a.Is4()):
			c.report(m, v1alpha1.ConditionResolvedRefs, finding.ReasonIPFamilyNotSupported, a.field,
				"Service %s has no %s address; connections to %s are rejected", name, family(a.Is4()), a)
		case !slices.ContainsFunc(families, func(f netip.Addr) bool { return f.Is4() == a.Is4() }):
			families = append(families, a.Addr)
		}
	}
	c.checkService(m, service)
	if m.Spec.Mode == v1alpha1.ModeService && m.Spec.Masquerade != nil && !*m.Spec.Masquerade {
		c.report(m, v1alpha1.ConditionAccepted, finding.ReasonMasqueradeIgnored, "spec.masquerade",
			"false has no effect in mode service, because the cluster replaces the client's address with a node's; use mode endpoints to keep it")
	}
	var of []*endpointSlice
	if m.Spec.Mode == v1alpha1.ModeEndpoints || m.Spec.Egress {
		endpoints := c.endpointsOf(m, service)
		of, b.pods = endpoints.slices, endpoints.pods
		if m.Spec.Mode == v1alpha1.ModeEndpoints && c.keepsSource(m) {
			b.local = endpoints.places.local
			c.reportRemote(m, endpoints.places, families)
		}
	}
	if m.Spec.Mode == v1alpha1.ModeService {
		of = c.slicesBehind(name)
	}
	if m.Spec.Mode == v1alpha1.ModeEndpoints {
		b.affinity = affinity(service)
	}
	b.clusterIPs = c.clusterIPs(m, service, of)
	for i := range m.Spec.Ports {
		b.targets[i] = c.resolvePort(m, i, service, b.clusterIPs, of, families)
	}
	return b
}

func (c *calculation) resolvePort(m *v1alpha1.Mapping, i int, service *corev1.Service, clusterIPs []netip.Addr, of []*endpointSlice, families []netip.Addr) targets {
	var t targets
	port := m.Spec.Ports[i]
	switch servicePort := findPort(service, port); {
	case m.Spec.Mode == v1alpha1.ModeEndpoints && port.EndPort != nil:
		// A range leads straight to the pods, so that the Service need not list a thousand ports.
		t = c.endpoints(of, func(*endpointSlice) []uint16 { return []uint16{uint16(port.ServicePort)} })
	case servicePort == nil:
		c.report(m, v1alpha1.ConditionResolvedRefs, finding.ReasonServicePortNotFound, portField(i, "servicePort"),
			"Service %s/%s has no port %d/%s, only %s; connections are rejected", service.Namespace, service.Name, port.ServicePort, port.Protocol, listPorts(service))
		return t
	case m.Spec.Mode == v1alpha1.ModeService:
		for _, a := range clusterIPs {
			t.backends.add(a, gateway.Backend{Address: a, Port: uint16(port.ServicePort)})
		}
		c.checkClusterIP(m, i, service, servicePort, of, families)
		return t
	default:
		t = c.endpoints(of, func(s *endpointSlice) []uint16 { return s.portsNamed(servicePort) })
	}
	for _, a := range families {
		if len(t.backends.of(a)) == 0 {
			c.report(m, v1alpha1.ConditionProgrammed, finding.ReasonNoReadyEndpoints, portField(i, "servicePort"),
				"Service %s/%s has no ready %s endpoint for port %d/%s; connections are rejected", service.Namespace, service.Name, family(a.Is4()), port.ServicePort, port.Protocol)
		}
	}
	return t
}

// checkClusterIP reports a ClusterIP without endpoints, whose connections the cluster refuses. A Service without slices says
// nothing about its endpoints here.
func (c *calculation) checkClusterIP(
	m *v1alpha1.Mapping, i int, service *corev1.Service, servicePort *corev1.ServicePort, of []*endpointSlice, families []netip.Addr,
) {
	if len(of) == 0 {
		return
	}
	t := c.endpoints(of, func(s *endpointSlice) []uint16 { return s.portsNamed(servicePort) })
	for _, a := range families {
		if len(t.backends.of(a)) == 0 {
			c.report(m, v1alpha1.ConditionProgrammed, finding.ReasonNoReadyEndpoints, portField(i, "servicePort"),
				"Service %s/%s has no ready %s endpoint for port %d/%s; the cluster rejects connections",
				service.Namespace, service.Name, family(a.Is4()), servicePort.Port, protocol(servicePort.Protocol))
		}
	}
}

// slicesBehind returns all slices of a Service: the cluster decides where a ClusterIP leads.
func (c *calculation) slicesBehind(service serviceKey) []*endpointSlice {
	var read []*endpointSlice
	for _, s := range c.slices[service] {
		read = append(read, readSlice(s))
	}
	slices.SortFunc(read, func(a, b *endpointSlice) int { return strings.Compare(a.name, b.name) })
	return read
}

func serviceProblem(s *corev1.Service, name serviceKey, mode v1alpha1.Mode) (reason, problem string) {
	switch {
	case s == nil:
		return finding.ReasonServiceNotFound, fmt.Sprintf("Service %s does not exist", name)
	case s.Spec.Type == corev1.ServiceTypeExternalName:
		return finding.ReasonServiceExternalName, fmt.Sprintf("Service %s is of type ExternalName, which has no address in the cluster", name)
	case mode == v1alpha1.ModeEndpoints:
		return "", ""
	case clusterIPs(s)[0] == corev1.ClusterIPNone:
		return finding.ReasonServiceHeadless, fmt.Sprintf("Service %s is headless (clusterIP: None), which requires mode endpoints", name)
	case clusterIPs(s)[0] == "":
		return finding.ReasonNoClusterIP, fmt.Sprintf("Service %s has no clusterIP yet", name)
	case len(serviceAddresses(s)) == 0:
		return finding.ReasonNoClusterIP, fmt.Sprintf("Service %s has clusterIP %.64q, which is not a unicast address", name, clusterIPs(s)[0])
	}
	return "", ""
}

// serviceAddresses returns the ClusterIPs, at most one per family as in the API.
func serviceAddresses(s *corev1.Service) []netip.Addr {
	var addrs []netip.Addr
	for _, text := range clusterIPs(s) {
		a, ok := parseUnicast(text)
		if ok && !slices.ContainsFunc(addrs, func(b netip.Addr) bool { return a.Is4() == b.Is4() }) {
			addrs = append(addrs, a)
		}
	}
	return addrs
}

func clusterIPs(s *corev1.Service) []string {
	if len(s.Spec.ClusterIPs) > 0 {
		return s.Spec.ClusterIPs
	}
	return []string{s.Spec.ClusterIP}
}

// affinity returns how long a client keeps its endpoint.
func affinity(s *corev1.Service) time.Duration {
	if s.Spec.SessionAffinity != corev1.ServiceAffinityClientIP {
		return 0
	}
	seconds := affinitySeconds(s)
	if !validAffinity(seconds) {
		seconds = corev1.DefaultClientIPServiceAffinitySeconds
	}
	return time.Duration(seconds) * time.Second
}

const maxAffinitySeconds = 86400

func validAffinity(seconds int32) bool { return 1 <= seconds && seconds <= maxAffinitySeconds }

func affinitySeconds(s *corev1.Service) int32 {
	if c := s.Spec.SessionAffinityConfig; c != nil && c.ClientIP != nil && c.ClientIP.TimeoutSeconds != nil {
		return *c.ClientIP.TimeoutSeconds
	}
	return corev1.DefaultClientIPServiceAffinitySeconds
}

// hasFamily reports whether the Service has the family. A Service from a file may not say so; then its slices decide. Without
// slices there is nothing to report yet.
func (c *calculation) hasFamily(s *corev1.Service, mode v1alpha1.Mode, v4 bool) bool {
	if mode == v1alpha1.ModeService {
		return slices.ContainsFunc(serviceAddresses(s), func(a netip.Addr) bool { return a.Is4() == v4 })
	}
	if len(s.Spec.IPFamilies) > 0 {
		return slices.Contains(s.Spec.IPFamilies, corev1.IPFamily(family(v4)))
	}
	of := c.slices[serviceKey{Namespace: s.Namespace, Name: s.Name}]
	return len(of) == 0 || slices.ContainsFunc(of, func(s *discoveryv1.EndpointSlice) bool {
		return s.AddressType == discoveryv1.AddressType(family(v4))
	})
}

// family returns the name of a family as Services and EndpointSlices spell it.
func family(v4 bool) string {
	if v4 {
		return string(corev1.IPv4Protocol)
	}
	return string(corev1.IPv6Protocol)
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
	const most = 10
	if len(s.Spec.Ports) == 0 {
		return "none"
	}
	var list []string
	for i, p := range s.Spec.Ports {
		if i == most {
			list = append(list, fmt.Sprintf("and %d more", len(s.Spec.Ports)-most))
			break
		}
		list = append(list, fmt.Sprintf("%d/%.8s", p.Port, protocol(p.Protocol)))
	}
	return strings.Join(list, ", ")
}
