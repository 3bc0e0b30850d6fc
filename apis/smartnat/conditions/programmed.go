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
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/smartnat/smartnat/apis/smartnat/conflicts"
	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
)

// Reasons of the condition Programmed.
const (
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
func programmed(m *v1alpha1.Mapping, errs field.ErrorList, lost conflicts.Losses, reporting bool) metav1.Condition {
	c := metav1.Condition{Type: v1alpha1.ConditionProgrammed, Status: metav1.ConditionFalse}
	if len(errs) > 0 || lost.All {
		c.Reason, c.Message = ReasonNotAccepted, "nothing of it is accepted"
		return c
	}
	var pending, failing, have []string
	for _, i := range holders(m.Status.Instances) {
		switch {
		case i.ObservedGeneration != m.Generation:
			pending = append(pending, i.Name)
		case !i.Programmed:
			failing = append(failing, strings.TrimSuffix(i.Name+": "+few(i.Problems, "; "), ": "))
		default:
			have = append(have, i.Name)
		}
	}
	switch {
	case len(failing) > 0:
		c.Reason, c.Message = ReasonNotProgrammed, few(failing, "; ")
	case len(pending) > 0:
		c.Reason, c.Message = ReasonPending, "the last change is not in effect yet on "+few(pending, ", ")
	case len(have) == 0 && reporting:
		c.Reason, c.Message = ReasonAddressNotHeld, notHeld(unserved(m))
	case len(have) == 0:
		c.Status, c.Reason = metav1.ConditionUnknown, ReasonNotReported
		c.Message = "no gateway reports its status, so it is not known whether one forwards for " + describeAddresses(m)
	default:
		c.Status, c.Reason, c.Message = metav1.ConditionTrue, ReasonProgrammed, "in effect on "+few(have, ", ")
		if unserved := unserved(m); len(unserved) > 0 {
			c.Message += "; " + notHeld(unserved)
		}
	}
	return c
}

// holders are the gateways that hold an address, by name: a list of a status is in no order.
func holders(instances []v1alpha1.InstanceStatus) []v1alpha1.InstanceStatus {
	var of []v1alpha1.InstanceStatus
	for _, i := range instances {
		if len(i.Addresses) > 0 {
			of = append(of, i)
		}
	}
	slices.SortFunc(of, func(a, b v1alpha1.InstanceStatus) int { return strings.Compare(a.Name, b.Name) })
	return of
}

// unserved returns the addresses that no gateway says it serves, in order.
func unserved(m *v1alpha1.Mapping) []string {
	set := map[netip.Addr]string{}
	for _, text := range m.Spec.Addresses {
		if a, err := netip.ParseAddr(text); err == nil {
			set[a] = text
		}
	}
	for _, i := range m.Status.Instances {
		for _, text := range i.Addresses {
			if a, err := netip.ParseAddr(text); err == nil {
				delete(set, a)
			}
		}
	}
	return slices.Sorted(maps.Values(set))
}

func notHeld(addresses []string) string {
	return fmt.Sprintf("no gateway that reports holds %s: it is on none of their links and none of their standbyAddresses", few(addresses, ", "))
}

func describeAddresses(m *v1alpha1.Mapping) string { return column(m.Spec.Addresses) }

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
