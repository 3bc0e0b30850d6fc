// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package conflicts

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/types"

	"github.com/smartnat/smartnat/apis/smartnat/grants"
	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
)

// Ports is a port or an inclusive range of ports, with protocol and address.
type Ports struct {
	Address     netip.Addr
	Protocol    v1alpha1.Protocol
	First, Last uint16
}

// String returns, for example, "192.0.2.10:8080/tcp" or "[2001:db8::10]:20000-20999/udp".
func (p Ports) String() string {
	address, ports := p.Address.String(), fmt.Sprint(p.First)
	if p.Address.Is6() {
		address = "[" + address + "]"
	}
	if p.Last != p.First {
		ports = fmt.Sprintf("%d-%d", p.First, p.Last)
	}
	return fmt.Sprintf("%s:%s/%s", address, ports, p.Protocol)
}

// Size returns the number of ports.
func (p Ports) Size() int { return int(p.Last-p.First) + 1 }

// Conflict is a run of requested ports that another Mapping owns.
type Conflict struct {
	Ports
	Winner *v1alpha1.Mapping
}

// Refusal is a request for ports, or for egress with an address if it has no protocol, that no PortGrant allows.
type Refusal struct {
	Ports
	Why string
}

// String returns what is refused, and why.
func (r Refusal) String() string {
	if r.Protocol == "" {
		return "egress is refused: " + r.Why
	}
	return fmt.Sprintf("%s is refused: %s", r.Ports, r.Why)
}

// Lost are all requested ports that a Mapping did not get.
type Lost struct {
	// Refusals lists the first MaxConflicts requests that are not granted, MoreRefusals is the number of the others.
	Refusals     []Refusal
	MoreRefusals int
	// Conflicts lists the first MaxConflicts, in the order of the Mapping's fields and of ports.
	Conflicts []Conflict
	// More is the number of further conflicts.
	More int
	// All is set if the Mapping got no port at all.
	All bool
}

// Equal reports whether the same ports were lost to the same Mappings. It ignores other changes of these Mappings.
func (l Lost) Equal(o Lost) bool {
	return l.More == o.More && l.All == o.All && l.MoreRefusals == o.MoreRefusals && slices.Equal(l.Refusals, o.Refusals) && slices.EqualFunc(l.Conflicts, o.Conflicts, func(x, y Conflict) bool {
		return x.Ports == y.Ports && Key(x.Winner) == Key(y.Winner) && x.Winner.UID == y.Winner.UID
	})
}

func (l *Lost) add(a Allocation) {
	n := min(len(a.Lost), MaxConflicts-len(l.Conflicts))
	l.Conflicts = append(l.Conflicts, a.Lost[:n]...)
	l.More += len(a.Lost) - n + a.More
}

func (l *Lost) refuse(ports Ports, why string) {
	if len(l.Refusals) == MaxConflicts {
		l.MoreRefusals++
		return
	}
	l.Refusals = append(l.Refusals, Refusal{ports, why})
}

// request is what a Mapping asks for, with the PortGrant that allows it, if one is needed.
type request struct {
	Ports
	mapping *v1alpha1.Mapping
	grant   *grants.Grant
}

// Find returns the losses of each Mapping that did not get all its ports. Pass valid Mappings only, because an invalid one
// owns no ports. The losses do not include addresses of uplinks, because only the gateway knows these.
func Find(valid []*v1alpha1.Mapping, granted *grants.Grants) map[types.NamespacedName]Lost {
	losses := resolve(valid, granted, func(*grants.Grant, *v1alpha1.Mapping, int) {})
	lost := map[types.NamespacedName]Lost{}
	for m, l := range losses {
		if len(l.Conflicts)+len(l.Refusals) > 0 {
			lost[Key(m)] = *l
		}
	}
	return lost
}

// Use is what Mappings have by a PortGrant.
type Use struct{ Mappings, Ports int }

// InUse returns what valid Mappings have by each PortGrant, by its name. Addresses of uplinks are not counted, as in Find.
func InUse(valid []*v1alpha1.Mapping, granted *grants.Grants) map[string]Use {
	type pair struct {
		grant   *grants.Grant
		mapping *v1alpha1.Mapping
	}
	used, counted := map[string]Use{}, map[pair]bool{}
	resolve(valid, granted, func(g *grants.Grant, m *v1alpha1.Mapping, ports int) {
		if g == nil || ports == 0 {
			return
		}
		use := used[g.Name]
		use.Ports += ports
		if key := (pair{g, m}); !counted[key] {
			counted[key] = true
			use.Mappings++
		}
		used[g.Name] = use
	})
	return used
}

// resolve returns the losses of each Mapping, and calls got for each request with the number of ports that the Mapping gets.
func resolve(valid []*v1alpha1.Mapping, granted *grants.Grants, got func(*grants.Grant, *v1alpha1.Mapping, int)) map[*v1alpha1.Mapping]*Lost {
	sorted := slices.Clone(valid)
	slices.SortFunc(sorted, Compare)
	losses := make(map[*v1alpha1.Mapping]*Lost, len(sorted))
	var requests []request
	for _, m := range sorted {
		l := &Lost{All: len(m.Spec.AddressesFrom) == 0}
		losses[m] = l
		for _, r := range Requests(m) {
			grant, why := granted.Find(r)
			if ports := (Ports{r.Address, r.Protocol, r.First, r.Last}); why != "" {
				l.refuse(ports, why)
			} else {
				requests = append(requests, request{ports, m, grant})
			}
		}
		for _, a := range egressAddresses(m) {
			if why := granted.RefusesEgress(m.Namespace, a); why != "" {
				l.refuse(Ports{Address: a}, why)
			}
		}
	}
	slices.SortStableFunc(requests, func(a, b request) int { return cmp.Compare(b.grant.Rank(), a.grant.Rank()) })
	taken, ledger := Owners{}, grants.Ledger{}
	for _, r := range requests {
		l := losses[r.mapping]
		if why := ledger.Take(r.grant, r.mapping.Namespace, r.Size()); why != "" {
			l.refuse(r.Ports, why)
			continue
		}
		share := taken.Take(r.Ports, r.mapping)
		got(r.grant, r.mapping, share.size(r.Ports))
		l.All = l.All && !share.Whole() && len(share.Free) == 0
		l.add(share)
	}
	return losses
}

// egressAddresses returns the addresses with which pods leave.
func egressAddresses(m *v1alpha1.Mapping) []netip.Addr {
	if !m.Spec.Egress {
		return nil
	}
	var addresses []netip.Addr
	for _, text := range m.Spec.Addresses {
		if a, err := netip.ParseAddr(text); err == nil {
			addresses = append(addresses, a)
		}
	}
	return addresses
}

// Key returns the namespace and name of a Mapping.
func Key(m *v1alpha1.Mapping) types.NamespacedName {
	return types.NamespacedName{Namespace: m.Namespace, Name: m.Name}
}

// Compare orders Mappings by their claim to ports: oldest first, then by namespace and name.
func Compare(a, b *v1alpha1.Mapping) int {
	return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
}

// Precedence returns a phrase that says why winner has the ports that loser asked for.
func Precedence(winner, loser *v1alpha1.Mapping) string {
	if Compare(winner, loser) > 0 {
		return "has a PortGrant of a higher priority"
	}
	if winner.CreationTimestamp.Equal(&loser.CreationTimestamp) {
		return "comes first by name"
	}
	return "is older"
}

// Requests returns what a valid Mapping asks for. The addresses of addressesFrom are not among it. The Mapping need not be
// defaulted.
func Requests(m *v1alpha1.Mapping) []grants.Request {
	wanted := make([]grants.Request, 0, len(m.Spec.Ports)*len(m.Spec.Addresses))
	var sources []netip.Prefix
	for _, text := range m.Spec.AllowedSources {
		if p, err := netip.ParsePrefix(text); err == nil {
			sources = append(sources, p)
		}
	}
	for _, p := range m.Spec.Ports {
		ports := grants.Request{
			Namespace: m.Namespace,
			Protocol:  v1alpha1.Protocol(strings.ToLower(cmp.Or(string(p.Protocol), string(v1alpha1.ProtocolTCP)))),
			First:     uint16(p.Port), Last: uint16(p.Port),
		}
		if p.EndPort != nil {
			ports.Last = uint16(*p.EndPort)
		}
		for _, text := range m.Spec.Addresses {
			var err error
			if ports.Address, err = netip.ParseAddr(text); err == nil {
				ports.Sources = sources
				wanted = append(wanted, ports)
			}
		}
	}
	return wanted
}
