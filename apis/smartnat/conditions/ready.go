// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package conditions

import (
	"cmp"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
)

// Reasons of the condition Ready. It also uses the reasons of the other conditions and those that gateways report.
const (
	// ReasonReady means that connections to all addresses and ports are forwarded.
	ReasonReady = "Ready"
	// ReasonNotReady means that a gateway does not forward and gives no reason.
	ReasonNotReady = "NotReady"
)

// ready combines the other conditions and the reports of gateways. A gateway that has programmed a Mapping may still
// reject its connections.
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
	for _, i := range sortedByName(m.Status.Instances) {
		// A gateway whose uplink has no address reports that, although it holds no address of the Mapping.
		if !i.Ready && (len(i.Addresses) > 0 || len(m.Spec.AddressesFrom) > 0) {
			c.Reason = cmp.Or(c.Reason, i.Reason, ReasonNotReady)
			failing = append(failing, strings.TrimSuffix(i.Name+": "+joinFirst(i.Problems, "; "), ": "))
		}
	}
	unserved := unservedOf(m)
	switch {
	case len(failing) > 0:
		c.Message = joinFirst(failing, "; ")
	case !unserved.empty():
		c.Reason, c.Message = ReasonAddressNotHeld, notHeld(m, unserved)
	default:
		c.Status, c.Reason, c.Message = metav1.ConditionTrue, ReasonReady, "forwarded by "+joinFirst(forwarding(m), ", ")
	}
	return c
}

// forwarding returns the sorted names of the gateways that forward the current generation of the Mapping.
func forwarding(m *v1alpha1.Mapping) []string {
	var names []string
	for _, i := range holders(m.Status.Instances) {
		if i.Programmed && i.Ready && i.ObservedGeneration == m.Generation {
			names = append(names, i.Name)
		}
	}
	return names
}

// mostEndpoints returns the largest number of endpoints that a gateway balances over, or nil in mode service.
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
