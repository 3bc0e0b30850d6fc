// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package calctest

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
)

// Frontend is a port of an external address.
type Frontend struct {
	Address  netip.Addr
	Protocol v1alpha1.Protocol
	Port     uint16
}

// grant is the spec of a PortGrant.
type grant struct {
	*v1alpha1.PortGrant
	address    netip.Prefix
	namespaces map[string]bool
	sources    []netip.Prefix
	// invalid grants cover their addresses, and give them to no tenant.
	invalid bool
}

func parse(g *v1alpha1.PortGrant) *grant {
	p := &grant{PortGrant: g, namespaces: map[string]bool{}, sources: prefixes(g.Spec.AllowedSources)}
	if text := g.Spec.Addresses[0]; strings.Contains(text, "/") {
		p.address = netip.MustParsePrefix(text)
	} else {
		p.address = netip.PrefixFrom(netip.MustParseAddr(text), 32)
	}
	for _, n := range g.Spec.Namespaces {
		p.namespaces[n] = true
	}
	for _, r := range g.Spec.Ports {
		p.invalid = p.invalid || *r.EndPort < r.Port
	}
	return p
}

func prefixes(texts []string) (networks []netip.Prefix) {
	for _, text := range texts {
		networks = append(networks, netip.MustParsePrefix(text))
	}
	return networks
}

// rule sorts the grants by address and precedence, after a change of one.
func (w *Tenants) rule(changed ...*grant) {
	for _, text := range w.Addresses {
		a := netip.MustParseAddr(text)
		if !slices.ContainsFunc(changed, func(g *grant) bool { return g != nil && g.address.Contains(a) }) {
			continue
		}
		w.grantings[a]++
		w.ruled[a] = nil
		for _, g := range w.grants {
			if p := w.parsed[g]; p.address.Contains(a) {
				w.ruled[a] = append(w.ruled[a], p)
			}
		}
		slices.SortFunc(w.ruled[a], func(a, b *grant) int {
			return cmp.Or(cmp.Compare(b.Spec.Priority, a.Spec.Priority), strings.Compare(a.Name, b.Name))
		})
	}
}

// Version changes with everything that decides what a namespace may use at an address, and where its Mappings lead.
func (w *Tenants) Version(namespace string, a netip.Addr) [2]int {
	return [2]int{w.grantings[a], w.about[namespace]}
}

// Covered reports whether an address is only for who was granted it.
func (w *Tenants) Covered(a netip.Addr) bool { return len(w.ruled[a]) > 0 }

// gives reports whether a grant gives a namespace anything.
func (w *Tenants) gives(g *grant, namespace string) bool {
	selected := g.namespaces[namespace]
	if s := g.Spec.NamespaceSelector; s != nil {
		selected = selected || w.namespaces.find("", namespace).Labels["tier"] == s.MatchLabels["tier"]
	}
	return selected && !g.invalid
}

// grantsFor returns the grants that give a namespace all ports of a range for these sources, by precedence. No sources mean all.
func (w *Tenants) grantsFor(namespace string, first Frontend, last uint16, sources []netip.Prefix) (list []*grant) {
	for _, g := range w.ruled[first.Address] {
		ports := len(g.Spec.Ports) == 0 || slices.ContainsFunc(g.Spec.Ports, func(p v1alpha1.GrantedPorts) bool {
			return p.Port <= int32(first.Port) && int32(last) <= *p.EndPort && (p.Protocol == "" || p.Protocol == first.Protocol)
		})
		within := len(g.sources) == 0 || len(sources) > 0 && !slices.ContainsFunc(sources, func(s netip.Prefix) bool {
			return !slices.ContainsFunc(g.sources, func(widest netip.Prefix) bool { return widest.Bits() <= s.Bits() && widest.Contains(s.Addr()) })
		})
		if ports && within && w.gives(g, namespace) {
			list = append(list, g)
		}
	}
	return list
}

// pods returns the addresses that are proven to be pods of a namespace.
func (w *Tenants) pods(namespace string) (proven []netip.Addr) {
	service := w.services.find(namespace, "echo")
	if s := w.slices.find(namespace, "echo-1"); s != nil && service != nil && service.Spec.Selector != nil {
		proven = append(proven, netip.MustParseAddr(s.Endpoints[0].Addresses[0]))
	}
	return proven
}

// Refuses says why a namespace must not lead the sources from a range of ports to a backend, or "".
func (w *Tenants) Refuses(namespace string, first Frontend, last uint16, sources []netip.Prefix, backend netip.Addr) string {
	if why := w.RefusesPorts(namespace, first, last, sources); why != "" {
		return why
	}
	given := w.grantsFor(namespace, first, last, sources)
	anyEndpoint := slices.ContainsFunc(given, func(g *grant) bool { return g.Spec.EndpointsWithoutSelector })
	proven := w.pods(namespace)
	if service := w.services.find(namespace, "echo"); len(proven) > 0 && service.Spec.ClusterIP == backend.String() && w.slices.find(namespace, "mine") == nil {
		return ""
	}
	if !anyEndpoint && !slices.Contains(proven, backend) {
		return fmt.Sprintf("%s is not proven to be a pod of the namespace", backend)
	}
	return ""
}

// RefusesPorts says why a namespace must not use a range of ports for these sources, or "".
func (w *Tenants) RefusesPorts(namespace string, first Frontend, last uint16, sources []netip.Prefix) string {
	if w.Covered(first.Address) && len(w.grantsFor(namespace, first, last, sources)) == 0 {
		return "no PortGrant gives it"
	}
	return ""
}

// RefusesEgress says why the pods of a namespace must not leave with an address, or "".
func (w *Tenants) RefusesEgress(namespace string, a netip.Addr) string {
	if w.Covered(a) && !slices.ContainsFunc(w.ruled[a], func(g *grant) bool { return g.Spec.Egress && w.gives(g, namespace) }) {
		return "no PortGrant gives egress"
	}
	return ""
}

// Forbids says why a packet must not be forwarded from a source and a Frontend to a backend, or "".
func (w *Tenants) Forbids(source netip.Addr, front Frontend, backend netip.Addr) string {
	why := "no Mapping asks for it"
	for _, m := range w.mappings {
		if _, asked := asks(m, source, front); !asked {
			continue
		}
		if why = w.Refuses(m.Namespace, front, front.Port, prefixes(m.Spec.AllowedSources), backend); why == "" {
			return ""
		}
	}
	return why
}

// asks returns the port of a Mapping that is to lead a source from a Frontend to the Service.
func asks(m *v1alpha1.Mapping, source netip.Addr, front Frontend) (v1alpha1.MappingPort, bool) {
	if m.Spec.Addresses[0] != front.Address.String() ||
		len(m.Spec.AllowedSources) > 0 && !slices.ContainsFunc(prefixes(m.Spec.AllowedSources), func(p netip.Prefix) bool { return p.Contains(source) }) {
		return v1alpha1.MappingPort{}, false
	}
	return portOf(m, front)
}

func portOf(m *v1alpha1.Mapping, front Frontend) (v1alpha1.MappingPort, bool) {
	for _, p := range m.Spec.Ports {
		last := p.Port
		if p.EndPort != nil {
			last = *p.EndPort
		}
		if p.Protocol == front.Protocol && p.Port <= int32(front.Port) && int32(front.Port) <= last {
			return p, true
		}
	}
	return v1alpha1.MappingPort{}, false
}

// Winner returns the Mapping that has a Frontend, in a walk with Exact.
func (w *Tenants) Winner(front Frontend) (winner *v1alpha1.Mapping) {
	var rank int32
	for _, m := range w.mappings {
		if _, asked := portOf(m, front); !asked || m.Spec.Addresses[0] != front.Address.String() {
			continue
		}
		priority := int32(0)
		if given := w.grantsFor(m.Namespace, front, front.Port, prefixes(m.Spec.AllowedSources)); len(given) > 0 {
			priority = given[0].Spec.Priority
		} else if w.Covered(front.Address) {
			continue
		}
		// The list is sorted by namespace and name, which decide between Mappings of the same age.
		if winner == nil || priority > rank || priority == rank && m.CreationTimestamp.Before(&winner.CreationTimestamp) {
			winner, rank = m, priority
		}
	}
	return winner
}

// Admitted returns the Mapping by which a source may connect to a Frontend, and whether to any endpoint, or "", in a walk with Exact.
func (w *Tenants) Admitted(source netip.Addr, front Frontend) string {
	if winner := w.Winner(front); winner != nil {
		if _, asked := asks(winner, source, front); asked {
			return fmt.Sprintf("%s/%s to any endpoint: %t", winner.Namespace, winner.Name, w.anyEndpoint(winner))
		}
	}
	return ""
}

// Reached returns the pods that a source reaches by a Frontend, in a walk with Exact.
func (w *Tenants) Reached(source netip.Addr, front Frontend) (pods []netip.Addr) {
	winner := w.Winner(front)
	if winner == nil {
		return nil
	}
	port, asked := asks(winner, source, front)
	service := w.services.find(winner.Namespace, "echo")
	if !asked || service == nil || service.Spec.Ports[0].Port != port.ServicePort {
		return nil
	}
	pods = w.pods(winner.Namespace)
	if !w.anyEndpoint(winner) {
		return pods
	}
	for _, name := range []string{"echo-1", "mine"} {
		if s := w.slices.find(winner.Namespace, name); s != nil {
			pods = append(pods, netip.MustParseAddr(s.Endpoints[0].Addresses[0]))
		}
	}
	slices.SortFunc(pods, netip.Addr.Compare)
	return slices.Compact(pods)
}

// anyEndpoint reports whether the grants of all ports of a Mapping include endpoints that are not proven to be pods.
func (w *Tenants) anyEndpoint(m *v1alpha1.Mapping) bool {
	return !slices.ContainsFunc(m.Spec.Ports, func(p v1alpha1.MappingPort) bool {
		front := Frontend{netip.MustParseAddr(m.Spec.Addresses[0]), p.Protocol, uint16(p.Port)}
		given := w.grantsFor(m.Namespace, front, front.Port, prefixes(m.Spec.AllowedSources))
		return len(given) == 0 || !given[0].Spec.EndpointsWithoutSelector
	})
}
