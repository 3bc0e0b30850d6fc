// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"k8s.io/utils/ptr"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/pkg/finding"
	"github.com/smartnat/smartnat/pkg/gateway"
)

// listed bounds the items of a list within a sentence.
const listed = 5

// incomingLink returns the link by which the packet reaches this host, "" if the host sends it, and reports whether its destination is
// an address of the host.
func (e *explanation) incomingLink() (in string, onHost bool) {
	source := e.route(e.flow.Source, 0)
	for _, link := range e.Report.Host.Links {
		for _, prefix := range link.Addresses {
			if prefix.Addr() != e.flow.Destination.Addr() {
				continue
			}
			in = source.Link
			if e.outside(in) && e.outside(link.Name) {
				in = link.Name // the network outside delivers it where the address is
			}
			e.arrives(in, link.Name)
			return in, true
		}
	}
	e.arrives(source.Link, "")
	return source.Link, false
}

func (e *explanation) arrives(in, holder string) {
	text := "from this host itself"
	if in != "" {
		text = "by " + in
		if i := slices.IndexFunc(e.Report.State.Uplinks, func(u gateway.Uplink) bool { return u.Link == in }); i >= 0 {
			text += fmt.Sprintf(", uplink %d", e.Report.State.Uplinks[i].Number)
		}
		if holder != "" && holder != in {
			text += "; the address is on " + holder
		}
	}
	e.step("arrives", "%s", text)
}

// outside reports whether a link leads to the outside.
func (e *explanation) outside(link string) bool {
	state := e.Report.State
	return slices.ContainsFunc(state.Uplinks, func(u gateway.Uplink) bool { return u.Link == link }) || slices.Contains(state.Outside, link)
}

func (e *explanation) fromInside(in string) bool { return in != "" && !e.outside(in) }

// permission says whether a Forward allows the source.
type permission int

const (
	allowed permission = iota
	// notListed means that the list of sources does not contain it, and noFamily that the list has no network of its family.
	notListed
	noFamily
)

func (e *explanation) source(f *gateway.Forward) permission {
	switch {
	case f.SourcesDeny:
		e.step("source", "denied: spec.allowedSources has no network of this family")
		return noFamily
	case len(f.Sources) == 0:
		e.step("source", "allowed: all sources are")
		return allowed
	}
	for _, s := range f.Sources {
		if s.Contains(e.flow.Source) {
			e.step("source", "allowed by %s", s)
			return allowed
		}
	}
	e.step("source", "denied: it is in none of %s", list(f.Sources))
	return notListed
}

func (p permission) advice(f *gateway.Forward, source netip.Addr) string {
	network := netip.PrefixFrom(source, source.BitLen())
	text := fmt.Sprintf("add %s, or a network with it, to spec.allowedSources of Mapping %s", network, f.Owner)
	if p == noFamily {
		text += ", which has no network of this family"
	}
	return text
}

// requestingMapping returns the Mapping that asks for the destination, or nil.
func (e *explanation) requestingMapping() *v1alpha1.Mapping {
	for _, m := range e.Report.Snapshot.Mappings {
		if e.item(m) >= 0 && e.address(m) >= 0 {
			return m
		}
	}
	return nil
}

// item returns the index of the port of a Mapping that covers the flow, or -1.
func (e *explanation) item(m *v1alpha1.Mapping) int {
	return slices.IndexFunc(m.Spec.Ports, func(p v1alpha1.MappingPort) bool {
		port := int32(e.flow.Destination.Port())
		return strings.EqualFold(cmp.Or(string(p.Protocol), "tcp"), string(e.flow.Protocol)) && p.Port <= port && port <= ptr.Deref(p.EndPort, p.Port)
	})
}

// address returns the index of the address of a Mapping that is the flow's, len(m.Spec.Addresses) if it has the address from an
// uplink, or -1.
func (e *explanation) address(m *v1alpha1.Mapping) int {
	for i, text := range m.Spec.Addresses {
		if a, err := netip.ParseAddr(text); err == nil && a.Unmap() == e.flow.Destination.Addr() {
			return i
		}
	}
	for name, resolved := range e.Report.Resolved {
		if name.Namespace == m.Namespace && name.Name == m.Name && slices.Contains(resolved.Addresses, e.flow.Destination.Addr()) {
			return len(m.Spec.Addresses)
		}
	}
	return -1
}

// concerningFinding returns the finding about a Mapping that concerns the flow and weighs most, or "".
func (e *explanation) concerningFinding(owner string) string {
	namespace, name, _ := strings.Cut(owner, "/")
	i := slices.IndexFunc(e.Report.Snapshot.Mappings, func(m *v1alpha1.Mapping) bool { return m.Namespace == namespace && m.Name == name })
	if i < 0 {
		return ""
	}
	m, text := e.Report.Snapshot.Mappings[i], ""
	for _, f := range e.Report.Findings {
		if f.Namespace != namespace || f.Name != name || !e.concerns(f, m) {
			continue
		}
		if f.Blocks() {
			return f.Field + ": " + f.Message
		}
		if text == "" {
			text = f.Field + ": " + f.Message
		}
	}
	return text
}

// concerns reports whether a finding is about the flow, and not only about other ports or addresses of its Mapping.
func (e *explanation) concerns(f finding.Finding, m *v1alpha1.Mapping) bool {
	for list, index := range map[string]int{"spec.ports[": e.item(m), "spec.addresses[": e.address(m)} {
		if rest, ok := strings.CutPrefix(f.Field, list); ok && !strings.HasPrefix(rest, fmt.Sprintf("%d]", index)) {
			return false
		}
	}
	return true
}

// listener returns the program's socket that receives the packet, or "".
func (e *explanation) listener() string {
	for _, l := range e.Report.Host.Listeners {
		if l.Protocol == e.flow.Protocol && l.Port == e.flow.Destination.Port() && (l.Address == e.flow.Destination.Addr() ||
			l.Address.IsUnspecified() && l.Address.Is6() == e.flow.Destination.Addr().Is6()) {
			return l.String()
		}
	}
	return ""
}

// frontendsOfAddress names what the address does forward.
func (e *explanation) frontendsOfAddress() string {
	var frontends []gateway.Frontend
	for _, f := range e.Report.State.Forwards {
		if f.Address == e.flow.Destination.Addr() {
			frontends = append(frontends, f.Frontend)
		}
	}
	if len(frontends) == 0 {
		return fmt.Sprintf("no Mapping has a port of %s in effect", e.flow.Destination.Addr())
	}
	return fmt.Sprintf("the address has %s", list(frontends))
}

// uplinkAddresses names the addresses of the uplinks.
func (e *explanation) uplinkAddresses() string {
	var addresses []netip.Addr
	for _, link := range e.Report.Host.Links {
		if !e.outside(link.Name) {
			continue
		}
		for _, prefix := range link.Addresses {
			if a := prefix.Addr(); a.Is6() == e.flow.Destination.Addr().Is6() && !a.IsLinkLocalUnicast() {
				addresses = append(addresses, a)
			}
		}
	}
	return list(addresses)
}

// list joins the first items.
func list[T fmt.Stringer](items []T) string {
	var texts []string
	for _, item := range items[:min(listed, len(items))] {
		texts = append(texts, item.String())
	}
	text := strings.Join(texts, ", ")
	if more := len(items) - listed; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}
