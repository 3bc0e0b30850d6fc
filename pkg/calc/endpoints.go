// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package calc

import (
	"cmp"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/smartnat/smartnat/pkg/gateway"
)

// endpoints returns the ready endpoints of all slices at the ports that portsOf finds in each, or where a family has none
// those that still serve while they terminate (KEP-1669).
func endpoints(all []*discoveryv1.EndpointSlice, portsOf func(*discoveryv1.EndpointSlice) []uint16) targets {
	var ready, terminating targets
	for _, slice := range all {
		if slice.AddressType == discoveryv1.AddressTypeFQDN {
			continue
		}
		ports := portsOf(slice)
		for i := range slice.Endpoints {
			isReady, isServing := condition(&slice.Endpoints[i])
			switch {
			case isReady:
				addEndpoint(&ready, &slice.Endpoints[i], ports)
			case isServing:
				addEndpoint(&terminating, &slice.Endpoints[i], ports)
			}
		}
	}
	if len(ready.v4) == 0 {
		ready.v4 = terminating.v4
	}
	if len(ready.v6) == 0 {
		ready.v6 = terminating.v6
	}
	return targets{v4: normalize(ready.v4), v6: normalize(ready.v6)}
}

// condition reads the conditions as discovery/v1 defines them: what is not said is taken as ready.
func condition(e *discoveryv1.Endpoint) (ready, servingTerminating bool) {
	ready = e.Conditions.Ready == nil || *e.Conditions.Ready
	serving := e.Conditions.Serving == nil && ready || e.Conditions.Serving != nil && *e.Conditions.Serving
	return ready, serving && e.Conditions.Terminating != nil && *e.Conditions.Terminating
}

// portsNamed returns the ports of a slice that the port of the Service stands for. Slices may differ: a named target port
// is another number in other pods.
func portsNamed(slice *discoveryv1.EndpointSlice, servicePort *corev1.ServicePort) []uint16 {
	var ports []uint16
	for _, p := range slice.Ports {
		name, proto := "", corev1.ProtocolTCP
		if p.Name != nil {
			name = *p.Name
		}
		if p.Protocol != nil {
			proto = *p.Protocol
		}
		if p.Port != nil && name == servicePort.Name && protocol(proto) == protocol(servicePort.Protocol) {
			ports = append(ports, uint16(*p.Port))
		}
	}
	return ports
}

// addEndpoint takes the first address alone: all of them are the same endpoint (discovery/v1).
func addEndpoint(t *targets, e *discoveryv1.Endpoint, ports []uint16) {
	if len(e.Addresses) == 0 {
		return
	}
	addr, err := netip.ParseAddr(e.Addresses[0])
	if err != nil {
		return
	}
	for _, port := range ports {
		t.add(addr, gateway.Backend{Address: addr, Port: port})
	}
}

func normalize(backends []gateway.Backend) []gateway.Backend {
	slices.SortFunc(backends, func(a, b gateway.Backend) int {
		return cmp.Or(a.Address.Compare(b.Address), cmp.Compare(a.Port, b.Port))
	})
	return slices.Compact(backends)
}
