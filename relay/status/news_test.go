// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package status

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/smartnat/smartnat/apis/smartnat/conditions"
	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
)

func at(name string) conditions.AppliedMetadata {
	return conditions.AppliedMetadata{Namespace: "shop", Name: name}
}

// with returns a status with one condition, as in "Programmed True Programmed", or with none.
func with(text string) v1alpha1.MappingStatus {
	parts := strings.Fields(text)
	if len(parts) == 0 {
		return v1alpha1.MappingStatus{}
	}
	return v1alpha1.MappingStatus{Conditions: []metav1.Condition{
		{Type: parts[0], Status: metav1.ConditionStatus(parts[1]), Reason: parts[2], Message: "because"},
	}}
}

func TestNews(t *testing.T) {
	for _, test := range []struct{ name, before, after, want string }{
		{"all is well from the start", "", "Accepted True Accepted", ""},
		{"programmed, perhaps to reject", "", "Programmed True Programmed", ""},
		{"forwarded for the first time", "", "Ready True Ready", "Normal Ready"},
		{"forwarded after no gateway said so", "Ready Unknown NotReported", "Ready True Ready", "Normal Ready"},
		{"forwarded again", "Ready False NoReadyEndpoints", "Ready True Ready", "Normal Ready"},
		{"still forwarded", "Ready True Ready", "Ready True Ready", ""},
		{"no endpoint", "Ready False Pending", "Ready False NoReadyEndpoints", "Warning NoReadyEndpoints"},
		{"no endpoint any more", "Ready True Ready", "Ready False NoReadyEndpoints", "Warning NoReadyEndpoints"},
		{"not reported yet", "", "Ready Unknown NotReported", ""},
		{"a new one's address is not held yet", "", "Programmed False AddressNotHeld", ""},
		{"an address that left", "Programmed True Programmed", "Programmed False AddressNotHeld", "Warning AddressNotHeld"},
		{"not accepted from the start", "", "Accepted False Invalid", "Warning Invalid"},
		{"not accepted any more", "Accepted True Accepted", "Accepted False PortConflict", "Warning PortConflict"},
		{"not accepted for another reason", "Accepted False Invalid", "Accepted False PortConflict", "Warning PortConflict"},
		{"still not accepted", "Accepted False Invalid", "Accepted False Invalid", ""},
		{"accepted again", "Accepted False PortConflict", "Accepted True Accepted", "Normal Accepted"},
		{"a deleted Service", "ResolvedRefs True ResolvedRefs", "ResolvedRefs False ServiceNotFound", "Warning ServiceNotFound"},
		{"repeats Accepted", "Programmed True Programmed", "Programmed False NotAccepted", ""},
		{"passes by itself", "Programmed True Programmed", "Programmed False Pending", ""},
		{"a gateway that fails", "Programmed False Pending", "Programmed False NotProgrammed", "Warning NotProgrammed"},
		{"no report yet", "", "Programmed Unknown NotReported", ""},
		{"no more reports", "Programmed True Programmed", "Programmed Unknown NotReported", "Warning NotReported"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var got []string
			for _, e := range news(with(test.before), with(test.after), account{}) {
				if note, _, _ := strings.Cut(e.note, ";"); note != "because" {
					t.Errorf("note %q", e.note)
				}
				got = append(got, e.eventType+" "+e.reason)
			}
			if diff := cmp.Diff(test.want, strings.Join(got, "; ")); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}

// TestReadySaysNothingTwice checks that a Ready condition that repeats another one causes no event.
func TestReadySaysNothingTwice(t *testing.T) {
	after := with("ResolvedRefs False ServiceNotFound")
	after.Conditions = append(after.Conditions, with("Ready False ServiceNotFound").Conditions...)
	if got := news(v1alpha1.MappingStatus{}, after, account{}); len(got) != 1 || got[0].reason != "ServiceNotFound" {
		t.Errorf("%+v, want one event", got)
	}
}

func TestANoteFitsIntoAnEvent(t *testing.T) {
	long := with("Accepted False Invalid")
	long.Conditions[0].Message = strings.Repeat("x", 5000)
	if got := news(v1alpha1.MappingStatus{}, long, account{}); len(got) != 1 || len(got[0].note) != maxNote || !strings.HasSuffix(got[0].note, "x...") {
		t.Errorf("a note of %d bytes, want %d that end in dots", len(got[0].note), maxNote)
	}
}
