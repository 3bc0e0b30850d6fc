// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package conditions

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/smartnat/smartnat/apis/smartnat/conflicts"
	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
)

// Reasons of the condition Programmed.
const (
	// ReasonProgrammed means that every gateway that holds an address has programmed it.
	ReasonProgrammed = "Programmed"
	// ReasonNotAccepted means that nothing of the Mapping is accepted.
	ReasonNotAccepted = "NotAccepted"
	// ReasonNotReported means that no gateway reports the status of any Mapping.
	ReasonNotReported = "NotReported"
	// ReasonAddressNotHeld means that gateways report, but none of them holds an address of the Mapping.
	ReasonAddressNotHeld = "AddressNotHeld"
	// ReasonPending means that a gateway has not yet applied the last change of the Mapping.
	ReasonPending = "Pending"
	// ReasonNotProgrammed means that a gateway reports why it does not forward.
	ReasonNotProgrammed = "NotProgrammed"
)

// programmed is true if every gateway that holds an address reports so. reporting is set if any gateway reports.
func programmed(m *v1alpha1.Mapping, errs field.ErrorList, lost conflicts.Lost, reporting bool) metav1.Condition {
	c := metav1.Condition{Type: v1alpha1.ConditionProgrammed, Status: metav1.ConditionFalse}
	if len(errs) > 0 || lost.All {
		c.Reason, c.Message = ReasonNotAccepted, "the Mapping is not accepted"
		return c
	}
	var pending, failing, have []string
	for _, i := range holders(m.Status.Instances) {
		switch {
		case i.ObservedGeneration != m.Generation:
			pending = append(pending, i.Name)
		case !i.Programmed:
			failing = append(failing, strings.TrimSuffix(i.Name+": "+joinFirst(i.Problems, "; "), ": "))
		default:
			have = append(have, i.Name)
		}
	}
	switch {
	case len(failing) > 0:
		c.Reason, c.Message = ReasonNotProgrammed, joinFirst(failing, "; ")
	case len(pending) > 0:
		c.Reason, c.Message = ReasonPending, "the last change is not in effect yet on "+joinFirst(pending, ", ")
	case len(have) == 0 && reporting:
		c.Reason, c.Message = ReasonAddressNotHeld, notHeld(m, unservedOf(m))
	case len(have) == 0:
		c.Status, c.Reason = metav1.ConditionUnknown, ReasonNotReported
		c.Message = "no gateway reports status, so it is unknown whether one forwards for " + describeAddresses(m)
	default:
		c.Status, c.Reason, c.Message = metav1.ConditionTrue, ReasonProgrammed, "in effect on "+joinFirst(have, ", ")
		if unserved := unservedOf(m); !unserved.empty() {
			c.Message += "; " + notHeld(m, unserved)
		}
	}
	return c
}

// holders returns the gateways that hold an address, sorted by name.
func holders(instances []v1alpha1.InstanceStatus) []v1alpha1.InstanceStatus {
	return slices.DeleteFunc(sortedByName(instances), func(i v1alpha1.InstanceStatus) bool { return len(i.Addresses) == 0 })
}

// sortedByName returns a sorted copy, because the list in a status has no order.
func sortedByName(instances []v1alpha1.InstanceStatus) []v1alpha1.InstanceStatus {
	return slices.SortedFunc(slices.Values(instances), func(a, b v1alpha1.InstanceStatus) int { return strings.Compare(a.Name, b.Name) })
}

// unserved holds the addresses and the uplinks of addressesFrom that no gateway reports to serve, sorted.
type unserved struct{ addresses, uplinks []string }

func unservedOf(m *v1alpha1.Mapping) unserved {
	addresses, uplinks := map[netip.Addr]string{}, sets.New[string]()
	for _, text := range m.Spec.Addresses {
		if a, err := netip.ParseAddr(text); err == nil {
			addresses[a] = text
		}
	}
	for _, from := range m.Spec.AddressesFrom {
		uplinks.Insert(from.Uplink)
	}
	for _, i := range m.Status.Instances {
		for _, text := range i.Addresses {
			if a, err := netip.ParseAddr(text); err == nil {
				delete(addresses, a)
			}
		}
		uplinks.Delete(i.Uplinks...)
	}
	return unserved{slices.Sorted(maps.Values(addresses)), sets.List(uplinks)}
}

func (u unserved) empty() bool { return len(u.addresses)+len(u.uplinks) == 0 }

// notHeld describes what is not served. It includes the reports of gateways that have the uplink, but no address on it.
func notHeld(m *v1alpha1.Mapping, u unserved) string {
	var texts []string
	if len(u.addresses) > 0 {
		texts = append(texts, fmt.Sprintf("no reporting gateway holds %s, neither on a link nor in standbyAddresses", joinFirst(u.addresses, ", ")))
	}
	if len(u.uplinks) > 0 {
		texts = append(texts, fmt.Sprintf("no reporting gateway has a usable address on uplink %s", joinFirst(u.uplinks, ", ")))
		for _, i := range sortedByName(m.Status.Instances) {
			if len(i.Addresses) == 0 {
				texts = append(texts, strings.TrimSuffix(i.Name+": "+joinFirst(i.Problems, "; "), ": "))
			}
		}
	}
	return joinFirst(texts, "; ")
}

// describeAddresses returns the addresses, those of addressesFrom that gateways serve, and the uplinks that no gateway serves.
func describeAddresses(m *v1alpha1.Mapping) string {
	all := slices.Clone(m.Spec.Addresses)
	if len(m.Spec.AddressesFrom) == 0 {
		return column(all)
	}
	named, resolved := sets.New[netip.Addr](), map[netip.Addr]string{}
	for _, text := range all {
		if a, err := netip.ParseAddr(text); err == nil {
			named.Insert(a)
		}
	}
	for _, i := range m.Status.Instances {
		for _, text := range i.Addresses {
			if a, err := netip.ParseAddr(text); err == nil && !named.Has(a) {
				resolved[a] = text
			}
		}
	}
	for _, a := range slices.SortedFunc(maps.Keys(resolved), netip.Addr.Compare) {
		all = append(all, resolved[a])
	}
	for _, uplink := range unservedOf(m).uplinks {
		all = append(all, "uplink:"+uplink)
	}
	return column(all)
}

// describePorts expects a defaulted Mapping.
func describePorts(m *v1alpha1.Mapping) string {
	texts := make([]string, 0, len(m.Spec.Ports))
	for _, p := range m.Spec.Ports {
		text := fmt.Sprint(p.Port)
		if p.EndPort != nil {
			text = fmt.Sprintf("%d-%d", p.Port, *p.EndPort)
		}
		if p.ServicePort != p.Port {
			text = fmt.Sprintf("%s->%d", text, p.ServicePort)
		}
		texts = append(texts, fmt.Sprintf("%s/%s", text, p.Protocol))
	}
	return column(texts)
}

// column shortens a list for a column of kubectl.
func column(texts []string) string {
	const most = 3
	if len(texts) > most {
		return fmt.Sprintf("%s + %d more...", strings.Join(texts[:most], ","), len(texts)-most)
	}
	return strings.Join(texts, ",")
}
