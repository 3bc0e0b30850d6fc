// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package filter_test

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/smartnat/smartnat/apis/kinds"
	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/relay/filter"
)

// TestScope says which Mappings and PortGrants a gateway sees, by the annotation of its ServiceAccount.
func TestScope(t *testing.T) {
	of := func(addresses ...string) kinds.Object {
		return &v1alpha1.Mapping{Spec: v1alpha1.MappingSpec{Addresses: addresses}}
	}
	from := func(uplink string) kinds.Object {
		return &v1alpha1.Mapping{Spec: v1alpha1.MappingSpec{AddressesFrom: []v1alpha1.AddressSource{{Uplink: uplink}}}}
	}
	grant := func(addresses ...string) kinds.Object {
		return &v1alpha1.PortGrant{ObjectMeta: metav1.ObjectMeta{Name: "g"}, Spec: v1alpha1.PortGrantSpec{Addresses: addresses}}
	}
	const mapping, portGrant = 0, 3
	table := filter.Kinds()
	if table[mapping].Kind != kinds.Mapping || table[portGrant].Kind != kinds.PortGrant {
		t.Fatal("the table has another order")
	}
	for _, test := range []struct {
		name, annotation string
		kind             int
		object           kinds.Object
		want             bool
	}{
		{"its address", "198.51.100.10", mapping, of("198.51.100.10"), true},
		{"another address", "198.51.100.10", mapping, of("198.51.100.11"), false},
		{"one of several addresses", "198.51.100.10", mapping, of("198.51.100.11", "198.51.100.10"), true},
		{"an address of its network", "198.51.100.0/28", mapping, of("198.51.100.15"), true},
		{"the address after its network", "198.51.100.0/28", mapping, of("198.51.100.16"), false},
		{"an address of another family", "0.0.0.0/0", mapping, of("2001:db8::1"), false},
		{"an IPv6 address", "2001:db8::/64", mapping, of("2001:db8::1"), true},
		{"an IPv6 address in another spelling", "2001:db8::1", mapping, of("2001:DB8:0::1"), true},
		{"an address with a zone", "::/0", mapping, of("fe80::1%eth0"), false},
		{"an invalid address", "0.0.0.0/0,::/0", mapping, of("x"), false},
		{"no address", "0.0.0.0/0,::/0", mapping, of(), false},
		{"its uplink", "uplink:eth1", mapping, from("eth1"), true},
		{"another uplink", "uplink:eth1", mapping, from("eth2"), false},
		{"all uplinks of a Mapping", "uplink:eth1", mapping, from("*"), true},
		{"all uplinks of a gateway", "uplink:*", mapping, from("eth2"), true},
		{"an uplink, enrolled for addresses", "0.0.0.0/0,::/0", mapping, from("*"), false},
		{"an address, enrolled for uplinks", "uplink:*", mapping, of("198.51.100.10"), false},
		{"a grant of its address", "198.51.100.10", portGrant, grant("198.51.100.10"), true},
		{"a grant of its network", "198.51.100.10", portGrant, grant("198.51.100.0/24"), true},
		{"a grant within its network", "198.51.100.0/24", portGrant, grant("203.0.113.0/24", "198.51.100.8/29"), true},
		{"a grant of another network", "198.51.100.10", portGrant, grant("203.0.113.0/24"), false},
		{"an invalid grant", "198.51.100.10", portGrant, grant("x", "198.51.100.0/33"), false},
		{"a grant, enrolled for uplinks", "uplink:eth1", portGrant, grant("203.0.113.0/24"), true},
		{"a malformed annotation shows nothing", "198.51.100.10,x", mapping, of("198.51.100.10"), false},
		{"an empty annotation shows nothing", "", mapping, of("198.51.100.10"), false},
	} {
		t.Run(test.name, func(t *testing.T) {
			scope, err := filter.ScopeOf(map[string]string{v1alpha1.AddressesAnnotation: test.annotation})
			if malformed := test.annotation == "" || test.annotation == "198.51.100.10,x"; malformed != (err != nil) {
				t.Errorf("error %v", err)
			}
			x := filter.NewIndex(table)
			x.SetScope(scope)
			if got := x.IsVisible(test.kind, test.object, types.NamespacedName{}); got != test.want {
				t.Errorf("visible: %v", got)
			}
		})
	}
	if scope, err := filter.ScopeOf(map[string]string{"other": "x"}); err != nil || !scope.IsEverything() {
		t.Errorf("without the annotation: %v, %v", scope, err)
	}
}
