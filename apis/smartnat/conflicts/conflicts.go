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

// Conflict is a run of requested ports that another Mapping owns.
type Conflict struct {
	Ports
	Winner *v1alpha1.Mapping
}

// Lost are all requested ports that a Mapping did not get.
type Lost struct {
	// Conflicts lists the first MaxConflicts, in the order of the Mapping's fields and of ports.
	Conflicts []Conflict
	// More is the number of further conflicts.
	More int
	// All is set if the Mapping got no port at all.
	All bool
}

// Equal reports whether the same ports were lost to the same Mappings. It ignores other changes of these Mappings.
func (l Lost) Equal(o Lost) bool {
	return l.More == o.More && l.All == o.All && slices.EqualFunc(l.Conflicts, o.Conflicts, func(x, y Conflict) bool {
		return x.Ports == y.Ports && Key(x.Winner) == Key(y.Winner) && x.Winner.UID == y.Winner.UID
	})
}

func (l *Lost) add(a Allocation) {
	n := min(len(a.Lost), MaxConflicts-len(l.Conflicts))
	l.Conflicts = append(l.Conflicts, a.Lost[:n]...)
	l.More += len(a.Lost) - n + a.More
}

// Find returns the losses of each Mapping that did not get all its ports. Pass valid Mappings only, because an invalid one
// owns no ports. The losses do not include addresses of uplinks, because only the gateway knows these.
func Find(valid []*v1alpha1.Mapping) map[types.NamespacedName]Lost {
	sorted := slices.Clone(valid)
	slices.SortFunc(sorted, Compare)
	lost := map[types.NamespacedName]Lost{}
	taken := Owners{}
	for _, m := range sorted {
		losses := Lost{All: len(m.Spec.AddressesFrom) == 0}
		for _, wanted := range Wanted(m) {
			share := taken.Take(wanted, m)
			losses.All = losses.All && !share.Whole() && len(share.Free) == 0
			losses.add(share)
		}
		if len(losses.Conflicts) > 0 {
			lost[Key(m)] = losses
		}
	}
	return lost
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
	if winner.CreationTimestamp.Equal(&loser.CreationTimestamp) {
		return "comes first by name"
	}
	return "is older"
}

// Wanted returns the ports that a valid Mapping asks for. The addresses of addressesFrom are not among them. The
// Mapping need not be defaulted.
func Wanted(m *v1alpha1.Mapping) []Ports {
	wanted := make([]Ports, 0, len(m.Spec.Ports)*len(m.Spec.Addresses))
	for _, p := range m.Spec.Ports {
		ports := Ports{
			Protocol: v1alpha1.Protocol(strings.ToLower(cmp.Or(string(p.Protocol), string(v1alpha1.ProtocolTCP)))),
			First:    uint16(p.Port), Last: uint16(p.Port),
		}
		if p.EndPort != nil {
			ports.Last = uint16(*p.EndPort)
		}
		for _, text := range m.Spec.Addresses {
			var err error
			if ports.Address, err = netip.ParseAddr(text); err == nil {
				wanted = append(wanted, ports)
			}
		}
	}
	return wanted
}
