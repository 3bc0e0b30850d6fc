// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package grants

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/apis/smartnat/validation"
)

// Grants are PortGrants, by the namespaces that they select. They are immutable. The zero value and nil grant everything.
type Grants struct {
	*index
	// labelled has the grants of each namespace that any selector matches, and seen the namespaces that were matched.
	labelled map[string][]*Grant
	seen     map[string]*corev1.Namespace
	required bool
}

// Grant is a parsed PortGrant.
type Grant struct {
	// Name is the name of the PortGrant.
	Name     string
	Priority int32
	// MaxPorts bounds the ports that each namespace may use; 0 means no limit.
	MaxPorts                                        int
	Egress, EndpointsWithoutSelector, ReservedPorts bool

	// noun is how messages call it.
	noun       string
	from       *v1alpha1.PortGrant
	addresses  []netip.Prefix
	sources    []netip.Prefix
	ports      []ports
	namespaces []string
	selector   labels.Selector
}

// ports are a granted range. Without a protocol it is granted for all.
type ports struct {
	protocol    v1alpha1.Protocol
	first, last uint16
}

func (p ports) String() string {
	text := fmt.Sprint(p.first)
	if p.last != p.first {
		text = fmt.Sprintf("%d-%d", p.first, p.last)
	}
	if p.protocol != "" {
		text += "/" + string(p.protocol)
	}
	return text
}

// Rank is the priority of a Grant, and 0 without one.
func (g *Grant) Rank() int32 {
	if g == nil {
		return 0
	}
	return g.Priority
}

// String is how messages call the Grant.
func (g *Grant) String() string { return g.noun }

// Options configure New.
type Options struct {
	// Required refuses also what no PortGrant covers.
	Required bool
	// noun is "PortGrant" by default.
	noun string
	// Before are earlier Grants, whose parsed PortGrants are reused.
	Before *Grants
}

// New returns the Grants of a cluster. A namespace that is not among namespaces has no labels. If only namespaces differ from those of
// Before, only changed ones are matched.
func New(list []*v1alpha1.PortGrant, namespaces []*corev1.Namespace, options Options) *Grants {
	before, noun := options.Before, cmp.Or(options.noun, "PortGrant")
	if before == nil || before.index == nil {
		before = &Grants{}
	}
	g := &Grants{index: before.index, labelled: map[string][]*Grant{}, seen: make(map[string]*corev1.Namespace, len(namespaces)), required: options.Required}
	same := g.index != nil && g.noun == noun && slices.Equal(g.list, list)
	if !same {
		g.index = newIndex(list, noun, before.index)
	}
	if len(g.selections) == 0 {
		return g
	}
	matched := matches{index: g.index, merged: map[string][]*Grant{}}
	for _, n := range namespaces {
		own, found := before.labelled[n.Name]
		if !same || before.seen[n.Name] != n {
			own, found = matched.of(n)
		}
		if g.seen[n.Name] = n; found {
			g.labelled[n.Name] = own
		}
	}
	return g
}

// precedence orders Grants: the highest priority first, then by name.
func precedence(a, b *Grant) int {
	return cmp.Or(cmp.Compare(b.Priority, a.Priority), strings.Compare(a.Name, b.Name))
}

// Pinned returns the Grants of a gateway's own config, which cover all addresses. A spec without namespaces grants to all.
func Pinned(specs []v1alpha1.PortGrantSpec) *Grants {
	if len(specs) == 0 {
		return nil
	}
	var list []*v1alpha1.PortGrant
	for i, spec := range specs {
		if len(spec.Namespaces) == 0 {
			spec.NamespaceSelector = &metav1.LabelSelector{}
		}
		list = append(list, &v1alpha1.PortGrant{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("pinnedGrants[%d]", i)}, Spec: spec})
	}
	pinned := New(list, nil, Options{Required: true, noun: "entry of pinnedGrants"})
	for _, g := range pinned.all {
		g.noun = g.Name
	}
	return pinned
}

// parse returns a Grant. Of an invalid PortGrant, only addresses are left.
func parse(from *v1alpha1.PortGrant) *Grant {
	spec := &from.Spec
	g := &Grant{
		from: from, Name: from.Name, Priority: spec.Priority, MaxPorts: int(spec.MaxPorts), Egress: spec.Egress,
		EndpointsWithoutSelector: spec.EndpointsWithoutSelector, ReservedPorts: spec.ReservedPorts,
	}
	for _, text := range spec.Addresses {
		if network, problem := validation.ParseGrantedAddress(text); problem == "" {
			g.addresses = append(g.addresses, network)
		}
	}
	if len(validation.ValidatePortGrant(from)) > 0 {
		return g
	}
	var err error
	if spec.NamespaceSelector != nil {
		if g.selector, err = metav1.LabelSelectorAsSelector(spec.NamespaceSelector); err != nil {
			return g
		}
	}
	g.namespaces = spec.Namespaces
	for _, text := range spec.AllowedSources {
		g.sources = append(g.sources, netip.MustParsePrefix(text))
	}
	for _, p := range spec.Ports {
		granted := ports{protocol: v1alpha1.Protocol(strings.ToLower(string(p.Protocol))), first: uint16(p.Port), last: uint16(p.Port)}
		if p.EndPort != nil {
			granted.last = uint16(*p.EndPort)
		}
		g.ports = append(g.ports, granted)
	}
	return g
}

// Of returns the Grants of a namespace, the highest priority first.
func (g *Grants) Of(namespace string) []*Grant {
	if g == nil || g.index == nil {
		return nil
	}
	if own, found := g.labelled[namespace]; found {
		return own
	}
	if own, found := g.named[namespace]; found {
		return own
	}
	return g.toAll
}

// SameFor reports whether other Grants decide the same for a namespace.
func (g *Grants) SameFor(namespace string, o *Grants) bool {
	own, other := g.Of(namespace), o.Of(namespace)
	if len(own) == len(other) && len(own) > 0 && &own[0] == &other[0] {
		return true
	}
	return slices.Equal(own, other)
}

// SameCoverage reports whether other Grants need a grant for the same addresses.
func (g *Grants) SameCoverage(o *Grants) bool {
	if g == nil || o == nil {
		return g == o
	}
	return g.required == o.required && (g.index == o.index || g.coverage().equal(o.coverage()))
}

// Covers reports whether an address may only be used with a grant.
func (g *Grants) Covers(a netip.Addr) bool {
	return g != nil && (g.required || g.coverage().contains(a))
}

// coverage returns the networks that need a grant, even if not all addresses do.
func (g *Grants) coverage() addressSet {
	if g.index == nil {
		return nil
	}
	return g.covered
}

// Request is what a Mapping asks for.
type Request struct {
	Namespace   string
	Address     netip.Addr
	Protocol    v1alpha1.Protocol // in lower case
	First, Last uint16
	// Sources are the allowed sources of both families. None means all.
	Sources []netip.Prefix
}

// Find returns the Grant of the highest priority by which a request is granted, or why none is. It returns nil and no reason if
// the address needs no grant.
func (g *Grants) Find(r Request) (*Grant, string) {
	if !g.Covers(r.Address) {
		return nil, ""
	}
	var near *Grant
	problem := ""
	for _, grant := range g.Of(r.Namespace) {
		if !grant.hasAddress(r.Address) {
			continue
		}
		why := grant.refuses(r)
		if why == "" {
			return grant, ""
		}
		if near == nil {
			near, problem = grant, why
		}
	}
	switch {
	case near != nil:
		return nil, problem
	case !g.covered.contains(r.Address):
		return nil, fmt.Sprintf("no %s covers %s, and every address needs one", g.noun, r.Address)
	}
	return nil, fmt.Sprintf("namespace %s has no %s for %s; ask an administrator for one", r.Namespace, g.noun, r.Address)
}

// refuses returns why a Grant that has the address does not grant a request, or "".
func (g *Grant) refuses(r Request) string {
	if len(g.ports) > 0 && !slices.ContainsFunc(g.ports, func(p ports) bool {
		return (p.protocol == "" || p.protocol == r.Protocol) && p.first <= r.First && r.Last <= p.last
	}) {
		return fmt.Sprintf("%s gives namespace %s only %s of it", g.noun, r.Namespace, join(g.ports))
	}
	switch {
	case len(g.sources) == 0:
		return ""
	case len(r.Sources) == 0:
		return fmt.Sprintf("%s needs allowedSources within %s", g.noun, join(g.sources))
	}
	for _, source := range r.Sources {
		if source.Addr().Is4() == r.Address.Is4() && !slices.ContainsFunc(g.sources, func(widest netip.Prefix) bool {
			return widest.Bits() <= source.Bits() && widest.Contains(source.Addr())
		}) {
			return fmt.Sprintf("allowedSources has %s, but %s needs sources within %s", source, g.noun, join(g.sources))
		}
	}
	return ""
}

// RefusesEgress returns why pods of a namespace may not leave with an address, or "".
func (g *Grants) RefusesEgress(namespace string, a netip.Addr) string {
	if !g.Covers(a) || slices.ContainsFunc(g.Of(namespace), func(grant *Grant) bool { return grant.Egress && grant.hasAddress(a) }) {
		return ""
	}
	return fmt.Sprintf("no %s gives namespace %s egress with %s; ask an administrator for one", g.noun, namespace, a)
}

func (g *Grant) hasAddress(a netip.Addr) bool {
	return slices.ContainsFunc(g.addresses, func(p netip.Prefix) bool { return p.Contains(a) })
}

// mostNamed bounds the number of items in a message.
const mostNamed = 8

// join spells the first items of a list.
func join[T fmt.Stringer](list []T) string {
	var texts []string
	for i, item := range list {
		if i == mostNamed {
			texts = append(texts, fmt.Sprintf("%d more", len(list)-mostNamed))
			break
		}
		texts = append(texts, item.String())
	}
	return strings.Join(texts, ", ")
}
