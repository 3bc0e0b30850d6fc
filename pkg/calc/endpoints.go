// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package calc

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/smartnat/smartnat/pkg/gateway"
)

// targets are the Backends of one port, and those that only finish existing connections.
type targets struct {
	backends, draining byFamily[gateway.Backend]
}

// phase is how far an endpoint has terminated. Slices may disagree about an endpoint while the controller moves it between
// them: the lowest phase counts.
type phase int

const (
	ready phase = iota
	// serving endpoints terminate, but take connections if none is ready (KEP-1669).
	serving
	// leaving endpoints take no new connections, but keep existing ones until they are gone.
	leaving
)

// phaseOf follows the definition of conditions in discovery/v1: unset means ready.
func phaseOf(c discoveryv1.EndpointConditions) phase {
	switch isReady := c.Ready == nil || *c.Ready; {
	case isReady:
		return ready
	case c.Serving != nil && *c.Serving && c.Terminating != nil && *c.Terminating:
		return serving
	}
	return leaving
}

// candidate is an endpoint at a port.
type candidate struct {
	gateway.Backend
	phase phase
}

func compareCandidates(a, b candidate) int {
	return cmp.Or(a.Address.Compare(b.Address), cmp.Compare(a.Port, b.Port), cmp.Compare(a.phase, b.phase))
}

// endpoints returns the endpoints of all slices at the ports that portsOf returns for each. Per family these are the ready ones
// or, if there are none, those that still serve; all others drain.
func (c *calculation) endpoints(all []*endpointSlice, portsOf func(*endpointSlice) []uint16) targets {
	list := c.candidates[:0]
	for _, slice := range all {
		for _, port := range portsOf(slice) {
			for _, e := range slice.endpoints {
				list = append(list, candidate{gateway.Backend{Address: e.address, Port: port}, e.phase})
			}
		}
	}
	c.candidates = list
	slices.SortFunc(list, compareCandidates)
	list = slices.CompactFunc(list, func(a, b candidate) bool { return a.Backend == b.Backend })
	var t targets
	six := 0
	for six < len(list) && list[six].Address.Is4() {
		six++
	}
	t.backends.v4, t.draining.v4 = sortOut(list[:six])
	t.backends.v6, t.draining.v6 = sortOut(list[six:])
	return t
}

// sortOut divides the endpoints of a family.
func sortOut(list []candidate) (backends, draining []gateway.Backend) {
	best, n := leaving, 0
	for _, c := range list {
		if c.phase < best {
			best, n = c.phase, 0
		}
		if c.phase == best {
			n++
		}
	}
	if best == leaving {
		n = 0
	}
	if n > 0 {
		backends = make([]gateway.Backend, 0, n)
	}
	for _, c := range list {
		if c.phase < leaving && c.phase == best {
			backends = append(backends, c.Backend)
		} else {
			draining = append(draining, c.Backend)
		}
	}
	return backends, draining
}

// endpointSlice is the valid part of an EndpointSlice.
type endpointSlice struct {
	name      string
	endpoints []endpoint
	ports     []endpointPort
	// managed is set if the label says that the EndpointSlice controller created the slice.
	managed bool
	// problem is the first invalid value, or "".
	problem string
}

type endpoint struct {
	address netip.Addr
	phase   phase
	// node is the node of the pod, or "".
	node string
}

type endpointPort struct {
	name     string
	protocol string
	port     uint16
}

// readSlice leaves out values that an API server would have rejected.
func readSlice(s *discoveryv1.EndpointSlice) *endpointSlice {
	read := &endpointSlice{
		name: s.Name, endpoints: make([]endpoint, 0, len(s.Endpoints)), managed: s.Labels[discoveryv1.LabelManagedBy] == SliceController,
	}
	switch s.AddressType {
	case discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6:
	case discoveryv1.AddressTypeFQDN:
		return read // valid, but without addresses to send packets to
	default:
		read.noteProblem("addressType: %.64q is neither IPv4 nor IPv6", s.AddressType)
		return read
	}
	for i := range s.Endpoints {
		e := &s.Endpoints[i]
		if len(e.Addresses) == 0 {
			read.noteProblem("endpoints[%d].addresses: empty", i)
			continue
		}
		// All addresses of an endpoint are equivalent, so the first one suffices (discovery/v1).
		addr, ok := parseUnicast(e.Addresses[0])
		if !ok || family(addr.Is4()) != string(s.AddressType) {
			read.noteProblem("endpoints[%d].addresses[0]: %.64q is not a unicast address of type %s", i, e.Addresses[0], s.AddressType)
			continue
		}
		node := ""
		if e.NodeName != nil {
			node = *e.NodeName
		}
		read.endpoints = append(read.endpoints, endpoint{addr, phaseOf(e.Conditions), node})
	}
	for i, p := range s.Ports {
		if p.Port == nil {
			continue // valid: the slice does not restrict the ports
		}
		if *p.Port < 1 || *p.Port > maxPort {
			read.noteProblem("ports[%d].port: %d is not between 1 and %d", i, *p.Port, maxPort)
			continue
		}
		port := endpointPort{protocol: protocol(corev1.ProtocolTCP), port: uint16(*p.Port)}
		if p.Name != nil {
			port.name = *p.Name
		}
		if p.Protocol != nil {
			port.protocol = protocol(*p.Protocol)
		}
		read.ports = append(read.ports, port)
	}
	return read
}

func (s *endpointSlice) noteProblem(format string, args ...any) {
	if s.problem == "" {
		s.problem = fmt.Sprintf(format, args...)
	}
}

// portsNamed returns the ports of a slice for a port of the Service. They may differ between slices: a named target port can
// have another number in other pods.
func (s *endpointSlice) portsNamed(servicePort *corev1.ServicePort) []uint16 {
	var ports []uint16
	for _, p := range s.ports {
		if p.name == servicePort.Name && p.protocol == protocol(servicePort.Protocol) {
			ports = append(ports, p.port)
		}
	}
	return ports
}

// parseUnicast parses an address that a Service or an endpoint may have.
func parseUnicast(text string) (netip.Addr, bool) {
	addr, err := netip.ParseAddr(text)
	return addr, err == nil && addr.Zone() == "" && !addr.Is4In6() && addr.IsGlobalUnicast()
}
