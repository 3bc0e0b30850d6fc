// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package kinds

import (
	"bytes"
	"encoding/json"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/validation"
)

// SpecWriter reduces managed fields to the entry of the manager that last wrote a field of the spec: its name, operation and time. It
// returns nil if there is none. Writes of status change nothing about the result. An entry without a list of fields, such as SpecWriter
// returns, counts as one that wrote the spec.
func SpecWriter(managed []metav1.ManagedFieldsEntry) []metav1.ManagedFieldsEntry {
	var last *metav1.ManagedFieldsEntry
	for i := range managed {
		e := &managed[i]
		if e.Subresource == "" && e.Manager != "" && (last == nil || !older(e.Time, last.Time)) && ownsSpec(e.FieldsV1) {
			last = e
		}
	}
	if last == nil {
		return nil
	}
	reduced := metav1.ManagedFieldsEntry{Manager: last.Manager, Time: last.Time.DeepCopy()}
	if most := validation.FieldManagerMaxLength; len(reduced.Manager) > most { // no API server would store it
		reduced.Manager = strings.ToValidUTF8(reduced.Manager[:most], "")
	}
	for _, known := range []metav1.ManagedFieldsOperationType{metav1.ManagedFieldsOperationApply, metav1.ManagedFieldsOperationUpdate} {
		if last.Operation == known {
			reduced.Operation = known // and not a copy in the memory of each object
		}
	}
	return []metav1.ManagedFieldsEntry{reduced}
}

// older reports whether a is before b. No time is before any.
func older(a, b *metav1.Time) bool { return b != nil && (a == nil || a.Before(b)) }

// ownsSpec reports whether a set of fields has any of the spec.
func ownsSpec(fields *metav1.FieldsV1) bool {
	if fields == nil {
		return true
	}
	raw := fields.GetRawBytes()
	if !bytes.Contains(raw, []byte(`"f:spec"`)) {
		return false
	}
	var owned struct {
		Spec json.RawMessage `json:"f:spec"`
	}
	return json.Unmarshal(raw, &owned) == nil && len(owned.Spec) > 0
}
