// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package status

import (
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
// time that a Mapping is in effect.
func news(before, after v1alpha1.MappingStatus) []event {
	var all []event
	for _, now := range after.Conditions {
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
		// Those pass by themselves, or follow from another condition, which tells more.
		if now.Reason == conditions.ReasonPending || now.Reason == conditions.ReasonNotAccepted {
			return ""
		}
		return corev1.EventTypeWarning
	case metav1.ConditionTrue:
		if was != nil && was.Status == metav1.ConditionFalse || now.Type == v1alpha1.ConditionProgrammed {
			return corev1.EventTypeNormal
		}
	case metav1.ConditionUnknown:
		if was != nil && was.Status == metav1.ConditionTrue {
			return corev1.EventTypeWarning
		}
	}
	return ""
}
