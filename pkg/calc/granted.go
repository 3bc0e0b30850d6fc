// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package calc

import (
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/smartnat/smartnat/apis/smartnat/grants"
	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/finding"
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/objects"
)

// granted says what Mappings may ask for: by the PortGrants of the cluster, and by the pinnedGrants of the config, because the source
// of the objects may be in the wrong hands.
type granted struct {
	mode          string
	cluster, pins *grants.Grants
	// portGrants and namespaces are what cluster was made of.
	portGrants []*v1alpha1.PortGrant
	namespaces []*corev1.Namespace
}

func newGranted(cfg config.Config) granted {
	var specs []v1alpha1.PortGrantSpec
	for _, p := range cfg.PinnedGrants {
		spec := v1alpha1.PortGrantSpec{
			Addresses: texts(p.Addresses), Namespaces: p.Namespaces, AllowedSources: texts(p.AllowedSources), MaxPorts: int32(p.MaxPorts),
			Egress: p.Egress, EndpointsWithoutSelector: p.EndpointsWithoutSelector, ReservedPorts: p.ReservedPorts,
		}
		for _, r := range p.Ports {
			last := int32(r.Ports.Last)
			spec.Ports = append(spec.Ports, v1alpha1.GrantedPorts{Port: int32(r.Ports.First), EndPort: &last, Protocol: v1alpha1.Protocol(r.Protocol)})
		}
		specs = append(specs, spec)
	}
	return granted{mode: cfg.Grants, pins: grants.Pinned(specs)}
}

func texts(networks []netip.Prefix) []string {
	var all []string
	for _, n := range networks {
		all = append(all, n.String())
	}
	return all
}

// update follows a Snapshot. If anything changed, it returns a function that reports whether that affects a namespace.
func (g *granted) update(s objects.Snapshot) func(namespace string) bool {
	if g.cluster != nil && slices.Equal(g.portGrants, s.PortGrants) && slices.Equal(g.namespaces, s.Namespaces) {
		return nil
	}
	before := g.cluster
	g.portGrants, g.namespaces = s.PortGrants, s.Namespaces
	g.cluster = grants.New(s.PortGrants, s.Namespaces, grants.Options{Required: g.mode == config.GrantsReport || g.mode == config.GrantsRequired, Before: before})
	all := !g.cluster.SameCoverage(before)
	return func(namespace string) bool { return all || !g.cluster.SameFor(namespace, before) }
}

// take counts the ports of a want, or returns why there is no room for them.
func (g *granted) take(ledger grants.Ledger, w *want, namespace string) string {
	size := w.claim().Size()
	if why := ledger.Take(w.grant, namespace, size); why != "" {
		return why
	}
	return ledger.Take(w.pin, namespace, size)
}

// allowance is what allows a want; nil if it needs nothing.
type allowance struct{ grant, pin *grants.Grant }

// allowanceOf returns what allows a Frontend, or false after it has reported why nothing does.
func (c *calculation) allowanceOf(m *v1alpha1.Mapping, port int, front gateway.Frontend, a address, sources []netip.Prefix) (allowance, bool) {
	if !c.granted.cluster.Covers(a.Addr) && !c.granted.pins.Covers(a.Addr) {
		return allowance{}, true
	}
	request := grantRequest(m, front, sources)
	pin, why := c.granted.pins.Find(request)
	if why != "" {
		c.refuse(m, a, portField(port, "port"), fmt.Sprintf("%s is refused by the gateway's config: %s", front, why))
		return allowance{}, false
	}
	grant, why := c.granted.cluster.Find(request)
	if why != "" && !c.reportOnly(m, portField(port, "port"), fmt.Sprintf("%s: %s", front, why)) {
		c.refuse(m, a, portField(port, "port"), fmt.Sprintf("%s is refused: %s", front, why))
		return allowance{}, false
	}
	if c.granted.mode == config.GrantsReport {
		grant = nil // neither its priority nor its limit counts
	}
	return allowance{grant, pin}, true
}

// names returns what AllowedBy says about an allowance.
func (c *calculation) names(by allowance) *gateway.Allowance {
	if by == (allowance{}) {
		return nil
	}
	if c.named[by] == nil {
		named := &gateway.Allowance{}
		if by.grant != nil {
			named.Grant = by.grant.Name
		}
		if by.pin != nil {
			named.Pin = by.pin.Name
		}
		c.named[by] = named
	}
	return c.named[by]
}

func grantRequest(m *v1alpha1.Mapping, front gateway.Frontend, sources []netip.Prefix) grants.Request {
	return grants.Request{
		Namespace: m.Namespace, Address: front.Address, Protocol: v1alpha1.Protocol(front.Protocol),
		First: front.Ports.First, Last: front.Ports.Last, Sources: sources,
	}
}

// conditionOfRefusal returns the condition that a refusal is about. If the Mapping has the address from an uplink, it concerns this host
// only.
func conditionOfRefusal(resolved bool) string {
	if resolved {
		return v1alpha1.ConditionProgrammed
	}
	return v1alpha1.ConditionAccepted
}

// refuse reports what is left out.
func (c *calculation) refuse(m *v1alpha1.Mapping, a address, field, message string) {
	c.report(m, conditionOfRefusal(a.resolved), finding.ReasonNotGranted, field, "%s", message)
}

// reportOnly reports what would be left out, unless it has to be.
func (c *calculation) reportOnly(m *v1alpha1.Mapping, field, message string) bool {
	if c.granted.mode != config.GrantsReport {
		return false
	}
	c.report(m, v1alpha1.ConditionAccepted, finding.ReasonGrantMissing, field,
		"%s; it is served, because grants is report in the gateway's config", message)
	return true
}

// withEgress returns the addresses with which pods of the Mapping may leave.
func (c *calculation) withEgress(m *v1alpha1.Mapping, addresses []address) []address {
	if !m.Spec.Egress {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(addresses), func(a address) bool {
		if why := c.granted.pins.RefusesEgress(m.Namespace, a.Addr); why != "" {
			c.refuse(m, a, "spec.egress", "the gateway's config refuses egress: "+why)
			return true
		}
		why := c.granted.cluster.RefusesEgress(m.Namespace, a.Addr)
		if why == "" || c.reportOnly(m, "spec.egress", why) {
			return false
		}
		c.refuse(m, a, "spec.egress", why)
		return true
	})
}

// grantsAnyEndpoint reports whether PortGrants, and the config, let the whole Mapping lead to endpoints that are not proven to be pods.
func (c *calculation) grantsAnyEndpoint(m *v1alpha1.Mapping, addresses []address, sources []netip.Prefix) bool {
	for _, port := range m.Spec.Ports {
		for _, a := range addresses {
			request := grantRequest(m, gateway.Frontend{Address: a.Addr, Protocol: gateway.Protocol(port.Protocol), Ports: portRange(port)}, sources)
			grant, _ := c.granted.cluster.Find(request)
			if grant == nil || !grant.EndpointsWithoutSelector {
				return false
			}
			if pin, _ := c.granted.pins.Find(request); c.granted.pins != nil && (pin == nil || !pin.EndpointsWithoutSelector) {
				return false
			}
		}
	}
	return len(addresses) > 0
}

// reservedPorts reports whether ports that the config reserves are allowed.
func (a allowance) reservedPorts() bool {
	return a.grant != nil && a.grant.ReservedPorts && a.pin != nil && a.pin.ReservedPorts
}
