// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package grants_test

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/smartnat/smartnat/apis/smartnat/grants"
	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
)

// TestSelections has a grant "a" of 192.0.2.1 for shop, changed, and another, "b", in a cluster with the namespaces shop and bank (both of the tier
// gold) and play.
func TestSelections(t *testing.T) {
	one, shop, gold := []string{"192.0.2.1"}, []string{"shop"}, &metav1.LabelSelector{MatchLabels: map[string]string{"tier": "gold"}}
	ports := func(protocol v1alpha1.Protocol, first, last int32) []v1alpha1.GrantedPorts {
		return []v1alpha1.GrantedPorts{{Port: first, EndPort: ptr.To(last), Protocol: protocol}}
	}
	for _, test := range []struct {
		name string
		a, b v1alpha1.PortGrantSpec
		want grants.Selection
	}{
		{"a namespace", v1alpha1.PortGrantSpec{Addresses: one, Namespaces: shop}, v1alpha1.PortGrantSpec{}, grants.Selection{Namespaces: 1}},
		{"one that does not exist", v1alpha1.PortGrantSpec{Addresses: one, Namespaces: []string{"shpo"}}, v1alpha1.PortGrantSpec{}, grants.Selection{Missing: []string{"shpo"}}},
		{"one of two", v1alpha1.PortGrantSpec{Addresses: one, Namespaces: []string{"gone", "shop"}}, v1alpha1.PortGrantSpec{}, grants.Selection{Namespaces: 1, Missing: []string{"gone"}}},
		{"a label", v1alpha1.PortGrantSpec{Addresses: one, NamespaceSelector: gold}, v1alpha1.PortGrantSpec{}, grants.Selection{Namespaces: 2}},
		{"a label and a name that has it", v1alpha1.PortGrantSpec{Addresses: one, Namespaces: shop, NamespaceSelector: gold}, v1alpha1.PortGrantSpec{}, grants.Selection{Namespaces: 2}},
		{"a label of none", v1alpha1.PortGrantSpec{Addresses: one, NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"tier": "lead"}}}, v1alpha1.PortGrantSpec{}, grants.Selection{}},
		{"an empty selector", v1alpha1.PortGrantSpec{Addresses: one, NamespaceSelector: &metav1.LabelSelector{}}, v1alpha1.PortGrantSpec{}, grants.Selection{Namespaces: 3, All: true}},
		{"ports upside down", v1alpha1.PortGrantSpec{Addresses: one, Namespaces: shop, Ports: ports("", 90, 80)}, v1alpha1.PortGrantSpec{}, grants.Selection{}},
		{"the same address", v1alpha1.PortGrantSpec{Addresses: one, Namespaces: shop}, v1alpha1.PortGrantSpec{Addresses: []string{"192.0.2.0/24"}, Namespaces: shop}, grants.Selection{Namespaces: 1, Overlaps: []string{"b"}}},
		{"the same address by label", v1alpha1.PortGrantSpec{Addresses: one, Namespaces: shop}, v1alpha1.PortGrantSpec{Addresses: one, NamespaceSelector: gold}, grants.Selection{Namespaces: 1, Overlaps: []string{"b"}}},
		{"the same address for all", v1alpha1.PortGrantSpec{Addresses: one, Namespaces: shop}, v1alpha1.PortGrantSpec{Addresses: one, NamespaceSelector: &metav1.LabelSelector{}}, grants.Selection{Namespaces: 1, Overlaps: []string{"b"}}},
		{"the same address for another", v1alpha1.PortGrantSpec{Addresses: one, Namespaces: shop}, v1alpha1.PortGrantSpec{Addresses: one, Namespaces: []string{"bank"}}, grants.Selection{Namespaces: 1}},
		{"another address", v1alpha1.PortGrantSpec{Addresses: one, Namespaces: shop}, v1alpha1.PortGrantSpec{Addresses: []string{"192.0.2.2"}, Namespaces: shop}, grants.Selection{Namespaces: 1}},
		{"ports that overlap", v1alpha1.PortGrantSpec{Addresses: one, Namespaces: shop, Ports: ports("tcp", 80, 90)}, v1alpha1.PortGrantSpec{Addresses: one, Namespaces: shop, Ports: ports("", 90, 99)}, grants.Selection{Namespaces: 1, Overlaps: []string{"b"}}},
		{"ports that do not", v1alpha1.PortGrantSpec{Addresses: one, Namespaces: shop, Ports: ports("tcp", 80, 90)}, v1alpha1.PortGrantSpec{Addresses: one, Namespaces: shop, Ports: ports("tcp", 91, 99)}, grants.Selection{Namespaces: 1}},
		{"other protocols", v1alpha1.PortGrantSpec{Addresses: one, Namespaces: shop, Ports: ports("tcp", 80, 90)}, v1alpha1.PortGrantSpec{Addresses: one, Namespaces: shop, Ports: ports("udp", 80, 90)}, grants.Selection{Namespaces: 1}},
	} {
		t.Run(test.name, func(t *testing.T) {
			golden := map[string]string{"tier": "gold"}
			namespaces := []*corev1.Namespace{namespace("shop", golden), namespace("bank", golden), namespace("play", nil)}
			list := []*v1alpha1.PortGrant{grant("a", test.a)}
			if len(test.b.Addresses) > 0 {
				list = append(list, grant("b", test.b))
			}
			got := grants.New(list, namespaces, grants.Options{}).Selections(namespaces)
			if diff := cmp.Diff(test.want, got["a"], cmpopts.EquateEmpty()); diff != "" || len(got) != len(list) {
				t.Errorf("%d selections; -want +got\n%s", len(got), diff)
			}
			if overlaps := got["b"].Overlaps; len(overlaps) != len(test.want.Overlaps) {
				t.Errorf("the other one overlaps %q", overlaps)
			}
		})
	}
	t.Run("many", func(t *testing.T) {
		var list []*v1alpha1.PortGrant
		for i := range 100 {
			list = append(list, grant(fmt.Sprintf("g%02d", i), v1alpha1.PortGrantSpec{Addresses: one, Namespaces: shop, Priority: int32(i)}))
		}
		namespaces := []*corev1.Namespace{namespace("shop", nil)}
		got := grants.New(list, namespaces, grants.Options{}).Selections(namespaces)["g99"].Overlaps
		if want := []string{"g98", "g97", "g96", "g95", "g94", "g93", "g92", "g91"}; !cmp.Equal(want, got) {
			t.Errorf("%q, want %q", got, want)
		}
	})
	if got := (*grants.Grants)(nil).Selections(nil); len(got) > 0 {
		t.Errorf("without grants: %v", got)
	}
}
