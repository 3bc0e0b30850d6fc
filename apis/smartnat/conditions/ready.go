// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package conditions

import (
	"cmp"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
)

// The reasons of Ready, but for those of the other conditions and those that gateways report.
const (
	ReasonReady = "Ready"
	// ReasonNotReady: a gateway does not forward and reports no reason.
	ReasonNotReady = "NotReady"
)

// ready sums up the other conditions, and what gateways report: that a gateway has programmed a Mapping does not mean that
// connections get through.
func ready(m *v1alpha1.Mapping, others []metav1.Condition) metav1.Condition {
	c := metav1.Condition{Type: v1alpha1.ConditionReady, Status: metav1.ConditionFalse}
	for _, other := range others {
		if other.Status == metav1.ConditionTrue {
			continue
		}
		c.Reason, c.Message = other.Reason, other.Message
		if other.Reason == ReasonNotReported {
			c.Status = metav1.ConditionUnknown
		}
		return c
	}
	var failing []string
	for _, i := range holders(m.Status.Instances) {
		if !i.Ready {
			c.Reason = cmp.Or(c.Reason, i.Reason, ReasonNotReady)
			failing = append(failing, strings.TrimSuffix(i.Name+": "+few(i.Problems, "; "), ": "))
		}
	}
	unserved := unserved(m)
	switch {
	case len(failing) > 0:
		c.Message = few(failing, "; ")
	case len(unserved) > 0:
		c.Reason, c.Message = ReasonAddressNotHeld, notHeld(unserved)
	default:
		c.Status, c.Reason, c.Message = metav1.ConditionTrue, ReasonReady, "forwarded by "+few(forwarding(m), ", ")
	}
	return c
}

// forwarding returns the names of the gateways that forward connections as the Mapping is now, in order.
func forwarding(m *v1alpha1.Mapping) []string {
	var names []string
	for _, i := range holders(m.Status.Instances) {
		if i.Programmed && i.Ready && i.ObservedGeneration == m.Generation {
			names = append(names, i.Name)
		}
	}
	return names
}

// mostEndpoints is the largest number of endpoints that a gateway balances over, nil in service mode.
func mostEndpoints(m *v1alpha1.Mapping) *int32 {
	if m.Spec.Mode != v1alpha1.ModeEndpoints {
		return nil
	}
	most := int32(0)
	for _, i := range m.Status.Instances {
		most = max(most, i.Endpoints)
	}
	return &most
}
