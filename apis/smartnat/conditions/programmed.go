// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package conditions

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/smartnat/smartnat/apis/smartnat/conflicts"
	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
)

// The reasons of Programmed.
const (
	ReasonProgrammed = "Programmed"
	// ReasonNotAccepted: no gateway can have it.
	ReasonNotAccepted = "NotAccepted"
	// ReasonNotReported: no gateway says that it has one of the addresses.
	ReasonNotReported = "NotReported"
	// ReasonPending: a gateway has not come to the last change of the Mapping yet.
	ReasonPending = "Pending"
	// ReasonNotProgrammed: a gateway says why it does not forward.
	ReasonNotProgrammed = "NotProgrammed"
)

// programmed is true when every gateway that holds an address says so.
func programmed(m *v1alpha1.Mapping, errs field.ErrorList, lost conflicts.Losses) metav1.Condition {
	c := metav1.Condition{Type: v1alpha1.ConditionProgrammed, Status: metav1.ConditionFalse}
	if len(errs) > 0 || lost.All {
		c.Reason, c.Message = ReasonNotAccepted, "nothing of it is accepted"
		return c
	}
	var pending, failing, have []string
	unserved := addressSet(m.Spec.Addresses)
	for _, i := range holders(m.Status.Instances) {
		switch {
		case i.ObservedGeneration != m.Generation:
			pending = append(pending, i.Name)
		case !i.Programmed:
			failing = append(failing, strings.TrimSuffix(i.Name+": "+few(i.Problems, "; "), ": "))
		default:
			have = append(have, i.Name)
		}
		for _, text := range i.Addresses {
			if a, err := netip.ParseAddr(text); err == nil {
				delete(unserved, a)
			}
		}
	}
	switch {
	case len(failing) > 0:
		c.Reason, c.Message = ReasonNotProgrammed, few(failing, "; ")
	case len(pending) > 0:
		c.Reason, c.Message = ReasonPending, "the last change is not in effect yet on "+few(pending, ", ")
	case len(have) == 0:
		c.Status, c.Reason, c.Message = metav1.ConditionUnknown, ReasonNotReported, "no gateway has reported that it forwards for "+describeAddresses(m)
	default:
		c.Status, c.Reason, c.Message = metav1.ConditionTrue, ReasonProgrammed, "in effect on "+few(have, ", ")
		if len(unserved) > 0 {
			c.Message += "; no gateway has reported that it forwards for " + few(sorted(unserved), ", ")
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

func addressSet(texts []string) map[netip.Addr]string {
	set := map[netip.Addr]string{}
	for _, text := range texts {
		if a, err := netip.ParseAddr(text); err == nil {
			set[a] = text
		}
	}
	return set
}

func sorted(set map[netip.Addr]string) []string {
	var texts []string
	for _, text := range set {
		texts = append(texts, text)
	}
	slices.Sort(texts)
	return texts
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

// column is how kubectl shortens a list in a column.
func column(texts []string) string {
	const most = 3
	if len(texts) > most {
		return fmt.Sprintf("%s + %d more...", strings.Join(texts[:most], ","), len(texts)-most)
	}
	return strings.Join(texts, ",")
}
