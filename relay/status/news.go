// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package status

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/smartnat/smartnat/apis/smartnat/conditions"
	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
)

// maxNote is the longest note of an Event that the API server accepts in events.k8s.io.
const maxNote = 1024

// event is a change that a user should see.
type event struct{ eventType, reason, note string }

// news returns the changes between two statuses that a user should see: failures, recoveries, and that a version of the Mapping is
// forwarded. Ready often repeats another condition; it only counts if no other condition has the same reason.
func news(before, after v1alpha1.MappingStatus, account account) []event {
	var all []event
	for _, now := range after.Conditions {
		if now.Type == v1alpha1.ConditionReady && now.Status != metav1.ConditionTrue && slices.ContainsFunc(after.Conditions, func(c metav1.Condition) bool {
			return c.Type != now.Type && c.Reason == now.Reason
		}) {
			continue
		}
		was := meta.FindStatusCondition(before.Conditions, now.Type)
		if eventType := newsType(was, now); eventType != "" {
			more := account.writer
			if now.Type == v1alpha1.ConditionReady && now.Status == metav1.ConditionTrue {
				more = "; open: " + account.ports + more
			}
			all = append(all, event{eventType, now.Reason, shorten(now.Message, maxNote-len(more)) + more})
		}
	}
	return all
}

// reasonDeleted is the reason of the Event about a Mapping that was in effect and is deleted.
const reasonDeleted = "Deleted"

// deletion returns the Event about a deleted Mapping, which replicas of the relay give the same name so that one of them writes it. It
// returns nil for a Mapping that was not in effect.
func deletion(m *v1alpha1.Mapping, granted []string, now metav1.Time) *corev1.Event {
	if !meta.IsStatusConditionTrue(m.Status.Conditions, v1alpha1.ConditionProgrammed) && !meta.IsStatusConditionTrue(m.Status.Conditions, v1alpha1.ConditionReady) {
		return nil
	}
	of := newAccount(m, m.Status, granted)
	return &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Namespace: m.Namespace, Name: "smartnat-deleted-" + string(m.UID)},
		InvolvedObject: *reference(m), Type: corev1.EventTypeNormal, Reason: reasonDeleted, Message: "closed: " + of.ports + of.writer,
		Source: corev1.EventSource{Component: Component}, FirstTimestamp: now, LastTimestamp: now, Count: 1,
	}
}

func reference(m *v1alpha1.Mapping) *corev1.ObjectReference {
	return &corev1.ObjectReference{
		APIVersion: v1alpha1.SchemeGroupVersion.String(), Kind: "Mapping",
		Namespace: m.Namespace, Name: m.Name, UID: m.UID, ResourceVersion: m.ResourceVersion,
	}
}

func newsType(was *metav1.Condition, now metav1.Condition) string {
	if was != nil && was.Status == now.Status && was.Reason == now.Reason {
		if now.Type == v1alpha1.ConditionReady && now.Status == metav1.ConditionTrue && was.ObservedGeneration != now.ObservedGeneration {
			return corev1.EventTypeNormal
		}
		return ""
	}
	switch now.Status {
	case metav1.ConditionFalse:
		switch now.Reason {
		case conditions.ReasonPending, conditions.ReasonNotAccepted:
			// These pass by themselves, or follow from another condition, which says more.
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
