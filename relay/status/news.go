// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package status

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/smartnat/smartnat/apis/smartnat/conditions"
	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
)

// maxNote is how much an Event says, and all that the API server takes in a note of events.k8s.io.
const maxNote = 1024

// event is a change that a person should see.
type event struct{ eventType, reason, note string }

// news are the changes between two statuses that a person should see: what stopped working, what works again, and the first
// time that connections are forwarded. Ready repeats what another condition says already; it is news by itself where they say
// nothing.
func news(before, after v1alpha1.MappingStatus) []event {
	var all []event
	for _, now := range after.Conditions {
		if now.Type == v1alpha1.ConditionReady && now.Status != metav1.ConditionTrue && slices.ContainsFunc(after.Conditions, func(c metav1.Condition) bool {
			return c.Type != now.Type && c.Reason == now.Reason
		}) {
			continue
		}
		was := meta.FindStatusCondition(before.Conditions, now.Type)
		if eventType := newsType(was, now); eventType != "" {
			note := now.Message
			if len(note) > maxNote {
				note = strings.ToValidUTF8(note[:maxNote-3], "") + "..."
			}
			all = append(all, event{eventType, now.Reason, note})
		}
	}
	return all
}

func newsType(was *metav1.Condition, now metav1.Condition) string {
	if was != nil && was.Status == now.Status && was.Reason == now.Reason {
		return ""
	}
	switch now.Status {
	case metav1.ConditionFalse:
		switch now.Reason {
		case conditions.ReasonPending, conditions.ReasonNotAccepted:
			// Those pass by themselves, or follow from another condition, which tells more.
			return ""
		case conditions.ReasonAddressNotHeld:
			// A gateway that holds the address of a new Mapping reports a moment later.
			if was == nil || was.Status != metav1.ConditionTrue {
				return ""
			}
		}
		return corev1.EventTypeWarning
	case metav1.ConditionTrue:
		switch now.Type {
		case v1alpha1.ConditionReady:
			return corev1.EventTypeNormal
		case v1alpha1.ConditionProgrammed: // does not mean that connections are forwarded
		default:
			if was != nil && was.Status == metav1.ConditionFalse {
				return corev1.EventTypeNormal
			}
		}
	case metav1.ConditionUnknown:
		if was != nil && was.Status == metav1.ConditionTrue {
			return corev1.EventTypeWarning
		}
	}
	return ""
}
