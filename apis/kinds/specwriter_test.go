// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package kinds_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/smartnat/smartnat/apis/kinds"
	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
)

func TestSpecWriter(t *testing.T) {
	at := func(minute int) *metav1.Time {
		return &metav1.Time{Time: time.Date(2026, 1, 1, 0, minute, 0, 0, time.UTC)}
	}
	entry := func(manager string, minute int, fields string) metav1.ManagedFieldsEntry {
		e := metav1.ManagedFieldsEntry{
			Manager: manager, Operation: metav1.ManagedFieldsOperationUpdate, APIVersion: "smartnat.aureacentral.com/v1alpha1", Time: at(minute), FieldsType: "FieldsV1",
		}
		if fields != "" {
			e.FieldsV1 = metav1.NewFieldsV1(fields)
		}
		return e
	}
	const spec, labels = `{"f:spec":{"f:ports":{}}}`, `{"f:metadata":{"f:labels":{".":{},"f:team":{}}}}`
	update := func(manager string, minute int) []metav1.ManagedFieldsEntry {
		return []metav1.ManagedFieldsEntry{{Manager: manager, Operation: metav1.ManagedFieldsOperationUpdate, Time: at(minute)}}
	}
	status := entry("smartnat-relay", 9, `{"f:status":{"f:conditions":{}}}`)
	status.Subresource = "status"
	statusOfSpec := entry("odd", 9, spec)
	statusOfSpec.Subresource = "status"
	apply := entry("argocd", 2, spec)
	apply.Operation = metav1.ManagedFieldsOperationApply
	timeless := entry("a", 0, spec)
	timeless.Time = nil
	unknown := entry("a", 1, spec)
	unknown.Operation = "Delete\n"
	for _, tc := range []struct {
		name    string
		managed []metav1.ManagedFieldsEntry
		want    []metav1.ManagedFieldsEntry
	}{
		{name: "nothing is known"},
		{"one writer", []metav1.ManagedFieldsEntry{entry("kubectl", 1, spec)}, update("kubectl", 1)},
		{"the newest of two", []metav1.ManagedFieldsEntry{entry("b", 3, spec), entry("a", 2, spec)}, update("b", 3)},
		{"the last of two at the same time", []metav1.ManagedFieldsEntry{entry("a", 2, spec), entry("b", 2, spec)}, update("b", 2)},
		{"an apply", []metav1.ManagedFieldsEntry{entry("kubectl", 1, spec), apply},
			[]metav1.ManagedFieldsEntry{{Manager: "argocd", Operation: metav1.ManagedFieldsOperationApply, Time: at(2)}}},
		{"a writer of status", []metav1.ManagedFieldsEntry{entry("kubectl", 1, spec), status}, update("kubectl", 1)},
		{"a subresource that has the spec", []metav1.ManagedFieldsEntry{entry("kubectl", 1, spec), statusOfSpec}, update("kubectl", 1)},
		{"a later writer of labels", []metav1.ManagedFieldsEntry{entry("kubectl", 1, spec), entry("labeller", 5, labels)}, update("kubectl", 1)},
		{"a label of the name spec", []metav1.ManagedFieldsEntry{entry("kubectl", 1, spec), entry("labeller", 5, `{"f:metadata":{"f:labels":{"f:spec":{}}}}`)}, update("kubectl", 1)},
		{"only labels", []metav1.ManagedFieldsEntry{entry("labeller", 5, labels)}, nil},
		{"fields that are no JSON", []metav1.ManagedFieldsEntry{entry("kubectl", 1, `{"f:spec"`)}, nil},
		{"no time is older than any", []metav1.ManagedFieldsEntry{entry("kubectl", 1, spec), timeless}, update("kubectl", 1)},
		{"an entry without fields, as a relay shows it", []metav1.ManagedFieldsEntry{entry("kubectl", 1, "")}, update("kubectl", 1)},
		{"an entry without a manager", []metav1.ManagedFieldsEntry{entry("", 1, spec)}, nil},
		{"an unknown operation", []metav1.ManagedFieldsEntry{unknown}, []metav1.ManagedFieldsEntry{{Manager: "a", Time: at(1)}}},
		{"a manager that is too long", []metav1.ManagedFieldsEntry{entry(strings.Repeat("x", 127)+strings.Repeat("ü", 1e6), 1, spec)}, update(strings.Repeat("x", 127), 1)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := kinds.SpecWriter(tc.managed)
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
			if diff := cmp.Diff(got, kinds.SpecWriter(got)); diff != "" {
				t.Errorf("not idempotent (-once +twice)\n%s", diff)
			}
		})
	}
}

// TestStatusIsNoNewsForGateways expects that a gateway is not sent a Mapping again because of its status.
func TestStatusIsNoNewsForGateways(t *testing.T) {
	m := &v1alpha1.Mapping{ObjectMeta: metav1.ObjectMeta{Name: "web", ManagedFields: []metav1.ManagedFieldsEntry{
		{Manager: "kubectl", Operation: metav1.ManagedFieldsOperationUpdate, Time: &metav1.Time{Time: time.Unix(1, 0)}, FieldsV1: metav1.NewFieldsV1(`{"f:spec":{}}`)},
	}}}
	written := m.DeepCopy()
	written.Status.ServiceVIP = "10.96.0.80"
	written.ManagedFields = append(written.ManagedFields, metav1.ManagedFieldsEntry{
		Manager: "smartnat-relay", Operation: metav1.ManagedFieldsOperationApply, Time: &metav1.Time{Time: time.Unix(2, 0)}, Subresource: "status", FieldsV1: metav1.NewFieldsV1(`{"f:status":{}}`),
	})
	if !kinds.Mapping.Same(kinds.Mapping.ForGateway(m), kinds.Mapping.ForGateway(written)) {
		t.Error("a write of status changes what a gateway gets")
	}
	written.ManagedFields[0].Manager = "argocd"
	if kinds.Mapping.Same(kinds.Mapping.ForGateway(m), kinds.Mapping.ForGateway(written)) {
		t.Error("another writer of the spec does not change what a gateway gets")
	}
}
