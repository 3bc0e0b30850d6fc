// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package calc

import (
	"fmt"
	"net/netip"
	"slices"

	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/smartnat/smartnat/apis/smartnat/conflicts"
	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/apis/smartnat/validation"
	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/finding"
	"github.com/smartnat/smartnat/pkg/gateway"
)

const maxPort = 65535

// resolve computes what the Mapping asks for, regardless of other Mappings.
func (c *calculation) resolve(e *entry) {
	mapping := e.mapping
	*e = entry{mapping: mapping}
	c.wants(e)
	e.about = slices.Concat(e.about, c.reported())
}

func (c *calculation) wants(e *entry) {
	if errs := validation.ValidateMapping(e.mapping); len(errs) > 0 {
		c.refuseInvalid(e, errs)
		return
	}
	m := e.mapping.DeepCopy()
	v1alpha1.SetDefaults(m)
	c.resolveOnNode(m)
	addresses, resolved := c.resolveUplinks(m, c.addresses(m))
	e.resolved = resolved
	if c.tooManyPorts(m) {
		e.refuseAll(m, addresses, finding.ReasonTooManyPorts)
		return
	}
	e.usage.ports = countPorts(m.Spec.Ports)
	sources := c.sources(m, addresses)
	allSources := slices.Concat(sources.v4, sources.v6)
	backing := c.backing(m, addresses, allSources)
	e.about = c.reported()
	e.local = backing.local
	owner, service := m.Namespace+"/"+m.Name, serviceNamedBy(m).String()
	e.wants = make([]want, 0, len(m.Spec.Ports)*len(addresses))
	for i, port := range m.Spec.Ports {
		supported := c.supported(m, i, addresses)
		for _, a := range addresses {
			where := a.place
			if !supported {
				where = nowhere
			}
			front, allowed := frontend(port, a), sources.of(a.Addr)
			by, ok := c.allowanceOf(m, i, front, a, allSources)
			if why := a.refusal(supported, ok); why != "" {
				e.refuse(front, why)
			}
			if !ok {
				continue
			}
			e.wants = append(e.wants, want{port: i, place: where, resolved: a.resolved, allowance: by, reserved: c.reserved(m, i, front, where, by), Forward: gateway.Forward{
				Frontend:    front,
				Owner:       owner,
				Service:     service,
				Sources:     allowed,
				SourcesDeny: len(m.Spec.AllowedSources) > 0 && len(allowed) == 0,
				AllowedBy:   c.names(by),
				Backends:    backing.targets[i].backends.of(a.Addr),
				Draining:    backing.targets[i].draining.of(a.Addr),
				Direct:      m.Spec.Mode == v1alpha1.ModeEndpoints,
				AnyEndpoint: c.anyEndpoint,
				Shift:       !front.Ports.Single(),
				Masquerade:  c.masquerades(m),
				Affinity:    backing.affinity,
				Consistent:  c.cfg.EndpointChoice == config.ChoiceMaglev,
			}})
		}
		e.addAboutPort(i, c.reported())
	}
	if c.tooExpensive(e); len(e.wants) == 0 {
		return
	}
	e.egress = c.egress(m, c.withEgress(m, addresses), backing.pods)
	e.aboutEgress = c.reported()
}

// refuseInvalid reports what is wrong with a Mapping that no API server would store.
func (c *calculation) refuseInvalid(e *entry, errs field.ErrorList) {
	for _, err := range errs {
		c.report(e.mapping, v1alpha1.ConditionAccepted, finding.ReasonInvalid, err.Field, "%s", err.ErrorBody())
	}
	e.refuse(gateway.Frontend{}, finding.ReasonInvalid)
}

// tooManyPorts reports a Mapping that is left out because of its number of ports.
func (c *calculation) tooManyPorts(m *v1alpha1.Mapping) bool {
	n, most := countPorts(m.Spec.Ports), c.cfg.MaxPortsPerMapping
	if most <= 0 || n <= most {
		return false
	}
	c.reported() // findings about parts are obsolete if all of it is left out
	c.report(m, v1alpha1.ConditionAccepted, finding.ReasonTooManyPorts, "spec.ports",
		"the Mapping exposes %d ports, but maxPortsPerMapping in the gateway's config allows %d; it is not served", n, most)
	return true
}

func (e *entry) addAboutPort(port int, findings []finding.Finding) {
	for _, f := range findings {
		e.aboutPort = append(e.aboutPort, portFinding{port, f})
	}
}

// collectFindings puts the Findings in the order of the Mapping's fields.
func (e *entry) collectFindings() {
	if e.over != nil {
		e.findings = append(slices.Clone(e.about), *e.over)
		return
	}
	findings := slices.Clone(e.about)
	about := e.aboutPort
	for i := range e.wants {
		w := &e.wants[i]
		for len(about) > 0 && about[0].port <= w.port {
			findings, about = append(findings, about[0].Finding), about[1:]
		}
		findings = append(findings, e.conflicts(w)...)
	}
	for _, f := range about { // of ports that no want is left of
		findings = append(findings, f.Finding)
	}
	e.findings = limitPerReason(append(findings, e.aboutEgress...))
}

// conflicts are about the condition Accepted if both Mappings name the address, so that everyone who knows both sees the same
// conflict. If a Mapping has the address from an uplink, the conflict only concerns this host.
func (e *entry) conflicts(w *want) []finding.Finding {
	if w.yields() {
		return nil
	}
	if w.refused != "" {
		return []finding.Finding{finding.New(e.mapping, conditionOfRefusal(w.resolved), finding.ReasonNotGranted, portField(w.port, "port"),
			"%s is refused: %s", w.Frontend, w.refused)}
	}
	var findings []finding.Finding
	for i, lost := range w.share.Lost {
		more := ""
		if i == len(w.share.Lost)-1 && w.share.More > 0 {
			more = fmt.Sprintf("; other Mappings have ports in %d more places of %s", w.share.More, w.Ports)
		}
		condition := v1alpha1.ConditionAccepted
		if w.resolved || !names(lost.Winner, w.Address) {
			condition = v1alpha1.ConditionProgrammed
		}
		findings = append(findings, finding.New(e.mapping, condition, finding.ReasonPortConflict, portField(w.port, "port"),
			"%s belongs to Mapping %s/%s, which %s%s", lost.Ports, lost.Winner.Namespace, lost.Winner.Name,
			conflicts.Precedence(lost.Winner, e.mapping), more))
	}
	return findings
}

// countPorts counts every port of a range, because the limit protects ports that others could have had.
func countPorts(ports []v1alpha1.MappingPort) int {
	n := 0
	for _, p := range ports {
		r := portRange(p)
		n += int(r.Last-r.First) + 1
	}
	return n
}

// supported reports whether the kernel can translate the protocol of a port.
func (c *calculation) supported(m *v1alpha1.Mapping, port int, addresses []address) bool {
	if c.sctp || m.Spec.Ports[port].Protocol != v1alpha1.ProtocolSCTP {
		return true
	}
	if slices.ContainsFunc(addresses, func(a address) bool { return a.place == here }) {
		c.report(m, v1alpha1.ConditionProgrammed, finding.ReasonSCTPNotSupported, portField(port, "protocol"),
			"the kernel of this host cannot translate SCTP; port %s is not served here", portRange(m.Spec.Ports[port]))
	}
	return false
}

// address is an address of a Mapping.
type address struct {
	netip.Addr
	// field is the path of the Mapping's field that asks for it.
	field string
	place place
	// resolved is set if the Mapping does not name the address itself.
	resolved bool
	// refused is the reason why the host does not serve it although it has it, or "".
	refused string
}

func portField(index int, name string) string { return fmt.Sprintf("spec.ports[%d].%s", index, name) }

func (c *calculation) addresses(m *v1alpha1.Mapping) []address {
	addrs := make([]address, 0, len(m.Spec.Addresses))
	for i, text := range m.Spec.Addresses {
		a := address{Addr: netip.MustParseAddr(text), field: fmt.Sprintf("spec.addresses[%d]", i)}
		disabled := a.Is6() && !c.cfg.IPv6
		switch {
		case !c.cfg.AnyAddress && !c.local[a.Addr] && c.held[a.Addr] != "":
			a.refused = finding.ReasonAddressNotServed
			c.report(m, v1alpha1.ConditionProgrammed, finding.ReasonAddressNotServed, a.field,
				"%s is on %s, which is not an uplink of this host; to serve it, add it to servedAddresses in the gateway's config, or add %[2]s to uplinks if it leads outside",
				a, c.held[a.Addr])
		case !c.cfg.AnyAddress && !c.local[a.Addr]:
			c.report(m, v1alpha1.ConditionProgrammed, finding.ReasonAddressNotOnHost, a.field,
				"%s is neither on a link of this host nor in standbyAddresses", a)
			if !disabled {
				a.place = absent
			}
		case disabled:
			a.refused = finding.ReasonIPv6Disabled
			c.report(m, v1alpha1.ConditionProgrammed, finding.ReasonIPv6Disabled, a.field,
				"%s is not served, because ipv6 is false in the gateway's config", a)
		default:
			a.place = here
		}
		addrs = append(addrs, a)
	}
	return addrs
}

func portRange(p v1alpha1.MappingPort) gateway.PortRange {
	r := gateway.Port(uint16(p.Port))
	if p.EndPort != nil {
		r.Last = uint16(*p.EndPort)
	}
	return r
}

// byFamily holds one list for each family.
type byFamily[T any] struct{ v4, v6 []T }

func (b *byFamily[T]) of(a netip.Addr) []T {
	if a.Is4() {
		return b.v4
	}
	return b.v6
}

func (b *byFamily[T]) add(a netip.Addr, item T) {
	if a.Is4() {
		b.v4 = append(b.v4, item)
	} else {
		b.v6 = append(b.v6, item)
	}
}

// sources returns the allowed sources. It reports an address that no source can reach, because that is more likely an oversight
// than intended.
func (c *calculation) sources(m *v1alpha1.Mapping, addresses []address) byFamily[netip.Prefix] {
	var sources byFamily[netip.Prefix]
	for _, text := range m.Spec.AllowedSources {
		p := netip.MustParsePrefix(text)
		sources.add(p.Addr(), p)
	}
	slices.SortFunc(sources.v4, comparePrefixes)
	slices.SortFunc(sources.v6, comparePrefixes)
	for _, a := range addresses {
		if a.place == here && len(m.Spec.AllowedSources) > 0 && len(sources.of(a.Addr)) == 0 {
			c.report(m, v1alpha1.ConditionProgrammed, finding.ReasonNoSources, "spec.allowedSources",
				"contains no %s network, so no client can connect to %s", family(a.Is4()), a)
		}
	}
	return sources
}
