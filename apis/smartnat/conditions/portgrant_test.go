// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package conditions_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/smartnat/smartnat/apis/smartnat/conditions"
	"github.com/smartnat/smartnat/apis/smartnat/conflicts"
	"github.com/smartnat/smartnat/apis/smartnat/grants"
	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
)

func TestOfPortGrant(t *testing.T) {
	one, shop := []string{"192.0.2.1"}, []string{"shop"}
	valid := v1alpha1.PortGrantSpec{Addresses: one, Namespaces: shop}
	const nothing = "grants nothing, and keeps its addresses from all: "
	for _, test := range []struct {
		name            string
		spec            v1alpha1.PortGrantSpec
		selection       grants.Selection
		status          metav1.ConditionStatus
		reason, message string
	}{
		{"valid", valid, grants.Selection{Namespaces: 1}, metav1.ConditionTrue, "Accepted", "valid"},
		{"for a namespace that does not exist", valid, grants.Selection{Missing: shop}, metav1.ConditionTrue, "NoNamespaces", "namespace shop does not exist"},
		{"for two", valid, grants.Selection{Missing: []string{"bank", "shop"}}, metav1.ConditionTrue, "NoNamespaces", "namespaces bank, shop do not exist"},
		{"for some that exist", valid, grants.Selection{Namespaces: 1, Missing: []string{"a", "b", "c", "d", "e"}}, metav1.ConditionTrue,
			"NamespaceNotFound", "namespaces a, b, c, d, and 1 more do not exist"},
		{"for a label of none", v1alpha1.PortGrantSpec{Addresses: one, NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}}},
			grants.Selection{}, metav1.ConditionTrue, "NoNamespaces", "namespaceSelector matches no namespace"},
		{"an empty selector", v1alpha1.PortGrantSpec{Addresses: one, NamespaceSelector: &metav1.LabelSelector{}}, grants.Selection{Namespaces: 9, All: true},
			metav1.ConditionTrue, "AllNamespaces", "the empty namespaceSelector selects all namespaces, also those that come later"},
		{"next to others", valid, grants.Selection{Namespaces: 1, Overlaps: []string{"b", "c"}}, metav1.ConditionTrue, "Overlapping",
			"some of the same ports are also granted by b, c; grants add up, and the higher priority decides about a port"},
		{"all of it", valid, grants.Selection{Namespaces: 1, All: true, Missing: []string{"x"}, Overlaps: []string{"b"}}, metav1.ConditionTrue, "NamespaceNotFound",
			"namespace x does not exist; the empty namespaceSelector selects all namespaces, also those that come later; " +
				"some of the same ports are also granted by b; grants add up, and the higher priority decides about a port"},
		{"ports upside down", v1alpha1.PortGrantSpec{Addresses: one, Namespaces: shop, Ports: []v1alpha1.GrantedPorts{{Port: 90, EndPort: ptr.To[int32](80)}}},
			grants.Selection{}, metav1.ConditionFalse, "Invalid", nothing + "spec.ports[0].endPort: Invalid value: 80: must not be below port 90"},
		{"for no namespace", v1alpha1.PortGrantSpec{Addresses: one}, grants.Selection{}, metav1.ConditionFalse, "Invalid",
			nothing + "spec.namespaces: Required value: must hold at least one namespace, or namespaceSelector must select them ({} selects all)"},
		{"no address", v1alpha1.PortGrantSpec{Namespaces: shop}, grants.Selection{}, metav1.ConditionFalse, "Invalid",
			nothing + "spec.addresses: Required value: must hold at least one address or network"},
		{"a malformed selector", v1alpha1.PortGrantSpec{Addresses: one, NamespaceSelector: &metav1.LabelSelector{
			MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "a", Operator: "Like"}}}}, grants.Selection{}, metav1.ConditionFalse, "Invalid",
			nothing + `spec.namespaceSelector.matchExpressions[0].operator: Invalid value: "Like": not a valid selector operator`},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := &v1alpha1.PortGrant{ObjectMeta: metav1.ObjectMeta{Name: "a", Generation: 7}, Spec: test.spec}
			first, later := metav1.NewTime(time.Unix(1, 0)), metav1.NewTime(time.Unix(2, 0))
			got := conditions.OfPortGrant(g, test.selection, conflicts.Use{Mappings: 2, Ports: 3}, first)
			want := v1alpha1.PortGrantStatus{
				Conditions: []metav1.Condition{{Type: "Accepted", Status: test.status, Reason: test.reason, Message: test.message, ObservedGeneration: 7, LastTransitionTime: first}},
				Namespaces: ptr.To(int32(test.selection.Namespaces)), Mappings: ptr.To[int32](2), Ports: ptr.To[int32](3),
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
			g.Status = got
			if again := conditions.OfPortGrant(g, test.selection, conflicts.Use{Mappings: 2, Ports: 3}, later); !conditions.HoldsPortGrant(got, again) {
				t.Errorf("later it does not hold: %+v", again)
			}
			if more := conditions.OfPortGrant(g, test.selection, conflicts.Use{Mappings: 2, Ports: 4}, later); conditions.HoldsPortGrant(got, more) {
				t.Error("another number of ports is not noticed")
			}
			if test.status == metav1.ConditionTrue {
				g.Spec = v1alpha1.PortGrantSpec{Addresses: []string{"x"}}
			} else {
				g.Spec = valid
			}
			if c := conditions.OfPortGrant(g, grants.Selection{Namespaces: 1}, conflicts.Use{}, later).Conditions[0]; c.LastTransitionTime != later {
				t.Errorf("%s since %s, want the time of the change", c.Status, c.LastTransitionTime)
			}
		})
	}
}
