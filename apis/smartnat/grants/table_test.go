// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package grants_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/smartnat/smartnat/apis/smartnat/grants"
	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
)

// TestTable spells PortGrants. A test with the API server in cmd/smartnat-relay proves that the policy decides by a table as Find does.
func TestTable(t *testing.T) {
	many := v1alpha1.PortGrantSpec{Addresses: []string{"192.0.2.9"}, Namespaces: []string{"bank"}}
	for port := range int32(10) {
		many.Ports = append(many.Ports, v1alpha1.GrantedPorts{Port: port + 1})
	}
	list := []*v1alpha1.PortGrant{
		grant("web", v1alpha1.PortGrantSpec{
			Addresses: []string{"192.0.2.1", "2001:db8::/64"}, Namespaces: []string{"shop", "bank"}, AllowedSources: []string{"10.0.0.0/8", "172.16.0.0/12"},
			Ports: []v1alpha1.GrantedPorts{{Port: 80, Protocol: "TCP"}, {Port: 1000, EndPort: ptr.To[int32](1999)}}, Egress: true,
		}),
		grant("first", v1alpha1.PortGrantSpec{Addresses: []string{"192.0.2.0/24"}, Namespaces: []string{"shop"}, Priority: 1, NamespaceSelector: &metav1.LabelSelector{
			MatchLabels: map[string]string{"tier": "gold"}, MatchExpressions: []metav1.LabelSelectorRequirement{
				{Key: "example.com/zone", Operator: metav1.LabelSelectorOpNotIn, Values: []string{"b", "a"}},
				{Key: "x", Operator: metav1.LabelSelectorOpExists}, {Key: "y", Operator: metav1.LabelSelectorOpDoesNotExist},
			},
		}}),
		grant("long", many),
		grant("invalid", v1alpha1.PortGrantSpec{Addresses: []string{"192.0.2.7"}}),
	}
	for _, test := range []struct {
		name   string
		grants *grants.Grants
		want   map[string]string
	}{
		{"none", nil, map[string]string{}},
		{"an empty list, and every address needs one", grants.New(nil, nil, grants.Options{Required: true}), map[string]string{"required": ""}},
		{"of all kinds", grants.New(list, nil, grants.Options{}), map[string]string{
			"lengths4": "24 32", "lengths6": "64", "covered.192.0.2.0_24": "", "covered.192.0.2.1_32": "", "covered.192.0.2.7_32": "",
			"covered.192.0.2.9_32": "", "covered.2001-db8--_64": "",
			"selectors": "0", "namespace.shop": "0 3", "namespace.bank": "2 3",
			"grant.0": "first|192.0.2.0/24|||example.com/zone notin =a =b;tier in =gold;x exists;y absent|||",
			"grant.2": "long|192.0.2.9/32|1, 2, 3, 4, 5, 6, 7, 8, 9, 10||||1, 2, 3, 4, 5, 6, 7, 8, 2 more|",
			"grant.3": "web|192.0.2.1/32,2001:db8::/64|80/tcp, 1000-1999|10.0.0.0/8, 172.16.0.0/12||egress||",
		}},
	} {
		got, err := test.grants.Table()
		if diff := cmp.Diff(test.want, got); diff != "" || err != nil {
			t.Errorf("%s: %v, -want +got\n%s", test.name, err, diff)
		}
	}
}

// TestTableFitsAConfigMap proves that 5,000 usual PortGrants fit, and that more than a ConfigMap holds is an error.
func TestTableFitsAConfigMap(t *testing.T) {
	var list []*v1alpha1.PortGrant
	for i := range 20000 {
		list = append(list, grant(fmt.Sprint("team-", i), v1alpha1.PortGrantSpec{
			Addresses: []string{fmt.Sprintf("198.51.%d.%d", i/250, i%250)}, Namespaces: []string{fmt.Sprint("team-", i)},
			Ports: []v1alpha1.GrantedPorts{{Port: 80, Protocol: "tcp"}, {Port: 443, Protocol: "tcp"}},
		}))
	}
	if table, err := grants.New(list[:5000], nil, grants.Options{}).Table(); err != nil || len(table) < 15000 {
		t.Errorf("%d keys of 5,000 PortGrants: %v", len(table), err)
	}
	if table, err := grants.New(list, nil, grants.Options{}).Table(); table != nil || err == nil || !strings.Contains(err.Error(), "20000 PortGrants take") {
		t.Errorf("%d keys of 20,000 PortGrants: %v", len(table), err)
	}
}
