// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package status

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
)

func TestAccount(t *testing.T) {
	decided := v1alpha1.MappingStatus{Addresses: "192.0.2.1", Ports: "80/tcp,20000-29999/udp"}
	written := func(manager string) []metav1.ManagedFieldsEntry {
		return []metav1.ManagedFieldsEntry{{Manager: manager, Operation: metav1.ManagedFieldsOperationUpdate, Time: &metav1.Time{Time: time.Unix(1, 0)}}}
	}
	const open = "because; open: 192.0.2.1 80/tcp,20000-29999/udp"
	const by = `; spec last written by "kubectl-edit" (Update) at 1970-01-01T00:00:01Z`
	for _, test := range []struct {
		name    string
		managed []metav1.ManagedFieldsEntry
		granted []string
		status  string
		want    string
	}{
		{"no grant is needed", written("kubectl-edit"), nil, "Ready True Ready", open + by},
		{"a grant", written("kubectl-edit"), []string{"web"}, "Ready True Ready", open + ", by PortGrant web" + by},
		{"many grants", written("kubectl-edit"), strings.Fields("a b c d e f g"), "Ready True Ready", open + ", by PortGrant a, b, c, d, e and 2 more" + by},
		{"refused", written("kubectl-edit"), nil, "Accepted False NotGranted", "because" + by},
		{"an unknown writer", nil, nil, "Accepted False NotGranted", "because"},
		{"a hostile manager", written("x\" (Apply)\n\x1b[2J\u202e"), nil, "Accepted False NotGranted",
			`because; spec last written by "x\" (Apply)\n\x1b[2J\u202e" (Update) at 1970-01-01T00:00:01Z`},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := &v1alpha1.Mapping{ObjectMeta: metav1.ObjectMeta{ManagedFields: test.managed}}
			got := news(v1alpha1.MappingStatus{}, with(test.status), newAccount(m, decided, test.granted))
			if len(got) != 1 {
				t.Fatalf("%d events", len(got))
			}
			if diff := cmp.Diff(test.want, got[0].note); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}

// TestAnAccountFitsIntoAnEvent uses the longest of everything, which must not hide who wrote the spec.
func TestAnAccountFitsIntoAnEvent(t *testing.T) {
	m := &v1alpha1.Mapping{ObjectMeta: metav1.ObjectMeta{ManagedFields: []metav1.ManagedFieldsEntry{
		{Manager: strings.Repeat("\x01", 1000), Operation: metav1.ManagedFieldsOperationUpdate, Time: &metav1.Time{Time: time.Unix(1, 0)}},
	}}}
	var granted []string
	for i := range maxGrants {
		granted = append(granted, fmt.Sprint(i, strings.Repeat("g", 252)))
	}
	ready := with("Ready True Ready")
	ready.Conditions[0].Message = strings.Repeat("x", 5000)
	got := news(v1alpha1.MappingStatus{}, ready, newAccount(m, v1alpha1.MappingStatus{Addresses: strings.Repeat("a", 1000), Ports: strings.Repeat("p", 1000)}, granted))
	if len(got) != 1 || len(got[0].note) > maxNote || !strings.HasSuffix(got[0].note, `" (Update) at 1970-01-01T00:00:01Z`) {
		t.Errorf("%+v", got)
	}
}

// TestANewVersionThatIsForwardedIsNews expects an Event for each version of a Mapping that gateways forward, even if the condition stays true.
func TestANewVersionThatIsForwardedIsNews(t *testing.T) {
	before, after := with("Ready True Ready"), with("Ready True Ready")
	before.Conditions[0].ObservedGeneration, after.Conditions[0].ObservedGeneration = 1, 2
	if got := news(before, after, account{ports: "all"}); len(got) != 1 || got[0] != (event{corev1.EventTypeNormal, "Ready", "because; open: all"}) {
		t.Errorf("%+v", got)
	}
	if got := news(after, after, account{}); len(got) != 0 {
		t.Errorf("the same version again: %+v", got)
	}
	accepted := with("Accepted True Accepted")
	accepted.Conditions[0].ObservedGeneration = 2
	if got := news(with("Accepted True Accepted"), accepted, account{}); len(got) != 0 {
		t.Errorf("another condition: %+v", got)
	}
}
