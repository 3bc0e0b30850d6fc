// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package conflicts_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/smartnat/smartnat/apis/smartnat/conflicts"
	"github.com/smartnat/smartnat/apis/smartnat/grants"
	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
)

// mapping returns a Mapping with the creation time born, in seconds.
func mapping(namespace, name string, born int, addresses []string, ports ...v1alpha1.MappingPort) *v1alpha1.Mapping {
	return &v1alpha1.Mapping{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, CreationTimestamp: metav1.NewTime(time.Unix(int64(born), 0))},
		Spec:       v1alpha1.MappingSpec{Addresses: addresses, Ports: ports},
	}
}

func port(p int32) v1alpha1.MappingPort { return v1alpha1.MappingPort{Port: p} }

func udp(p int32) v1alpha1.MappingPort { return v1alpha1.MappingPort{Port: p, Protocol: "UDP"} }

func ports(first, last int32) v1alpha1.MappingPort {
	return v1alpha1.MappingPort{Port: first, EndPort: &last}
}

func TestFind(t *testing.T) {
	uplink := func(m *v1alpha1.Mapping) *v1alpha1.Mapping {
		m.Spec.AddressesFrom = []v1alpha1.AddressSource{{Uplink: "eth1"}}
		return m
	}
	one, two, six := []string{"192.0.2.1"}, []string{"192.0.2.1", "192.0.2.2"}, []string{"2001:db8::1"}
	for _, test := range []struct {
		name     string
		mappings []*v1alpha1.Mapping
		want     []string
	}{
		{"other ports, protocols and addresses do not conflict", []*v1alpha1.Mapping{
			mapping("a", "a", 1, one, port(80), udp(81)), mapping("a", "b", 2, one, port(81), udp(80)),
			mapping("a", "c", 3, []string{"192.0.2.2"}, port(80)), mapping("a", "d", 3, six, port(80)),
		}, nil},
		{"the oldest wins, in any order", []*v1alpha1.Mapping{
			mapping("a", "young", 3, one, port(80)), mapping("z", "old", 1, one, port(80)), mapping("a", "middle", 2, one, port(80)),
		}, []string{"a/middle: 192.0.2.1:80/tcp has z/old", "a/middle: nothing is left",
			"a/young: 192.0.2.1:80/tcp has z/old", "a/young: nothing is left"}},
		{"of equal age, the first by namespace and then by name", []*v1alpha1.Mapping{
			mapping("b", "a", 1, one, port(80)), mapping("a", "z", 1, one, port(80)), mapping("a", "y", 1, one, port(80)),
		}, []string{"a/z: 192.0.2.1:80/tcp has a/y", "a/z: nothing is left", "b/a: 192.0.2.1:80/tcp has a/y", "b/a: nothing is left"}},
		{"only taken ports are lost", []*v1alpha1.Mapping{
			mapping("a", "old", 1, one, port(80)), mapping("a", "new", 2, two, port(80), port(81)),
		}, []string{"a/new: 192.0.2.1:80/tcp has a/old"}},
		{"a range loses its taken ports and gets the rest", []*v1alpha1.Mapping{
			mapping("a", "old", 1, one, ports(100, 200)), mapping("a", "new", 2, one, ports(200, 300)), mapping("a", "newest", 3, one, port(250)),
		}, []string{"a/new: 192.0.2.1:200/tcp has a/old", "a/newest: 192.0.2.1:250/tcp has a/new", "a/newest: nothing is left"}},
		{"a range inside another cuts it in two", []*v1alpha1.Mapping{
			mapping("a", "old", 1, one, ports(150, 160)), mapping("a", "new", 2, one, ports(100, 200)), mapping("a", "newest", 3, one, ports(95, 205)),
		}, []string{"a/new: 192.0.2.1:150-160/tcp has a/old", "a/newest: 192.0.2.1:100-149/tcp has a/new",
			"a/newest: 192.0.2.1:150-160/tcp has a/old", "a/newest: 192.0.2.1:161-200/tcp has a/new"}},
		{"a range without free ports", []*v1alpha1.Mapping{
			mapping("a", "old", 1, one, ports(100, 150), ports(151, 200)), mapping("a", "new", 2, one, ports(120, 180)),
		}, []string{"a/new: 192.0.2.1:120-180/tcp has a/old", "a/new: nothing is left"}},
		{"a port inside a range, and a range around a port", []*v1alpha1.Mapping{
			mapping("a", "old", 1, one, ports(100, 200), port(300)), mapping("a", "new", 2, one, port(150), ports(299, 301)),
		}, []string{"a/new: 192.0.2.1:150/tcp has a/old", "a/new: 192.0.2.1:300/tcp has a/old"}},
		{"addresses of addressesFrom are unknown", []*v1alpha1.Mapping{
			uplink(mapping("a", "old", 1, nil, port(80))), mapping("a", "new", 2, one, port(80)), uplink(mapping("a", "newest", 3, one, port(80))),
		}, []string{"a/newest: 192.0.2.1:80/tcp has a/new"}},
		{"an address in another spelling is the same", []*v1alpha1.Mapping{
			mapping("a", "old", 1, six, port(80)), mapping("a", "new", 2, []string{"2001:DB8:0::1"}, port(80)),
		}, []string{"a/new: [2001:db8::1]:80/tcp has a/old", "a/new: nothing is left"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			lost := conflicts.Find(test.mappings, nil)
			var got []string
			for key, losses := range lost {
				for _, c := range losses.Conflicts {
					got = append(got, fmt.Sprintf("%s: %s has %s", key, c.Ports, conflicts.Key(c.Winner)))
				}
				if losses.All {
					got = append(got, fmt.Sprintf("%s: nothing is left", key))
				}
			}
			slices.Sort(got)
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}

func TestPrecedence(t *testing.T) {
	one := []string{"192.0.2.1"}
	old, young := mapping("a", "a", 1, one), mapping("a", "b", 2, one)
	if got := conflicts.Precedence(old, young); got != "is older" {
		t.Errorf("different age: %q", got)
	}
	if got := conflicts.Precedence(young, mapping("a", "c", 2, one)); got != "comes first by name" {
		t.Errorf("same age: %q", got)
	}
}

func TestInUse(t *testing.T) {
	shop, bank := []string{"shop"}, []string{"bank"}
	one, two := []string{"192.0.2.1"}, []string{"192.0.2.1", "192.0.2.2"}
	invalid := v1alpha1.PortGrantSpec{Addresses: one, Namespaces: shop, Ports: []v1alpha1.GrantedPorts{{Port: 90, EndPort: ptr.To[int32](80)}}}
	for _, test := range []struct {
		name     string
		grants   map[string]v1alpha1.PortGrantSpec
		mappings []*v1alpha1.Mapping
		want     map[string]conflicts.Use
	}{
		{"no Mapping", map[string]v1alpha1.PortGrantSpec{"a": {Addresses: one, Namespaces: shop}}, nil, map[string]conflicts.Use{}},
		{"no grant is needed", nil, []*v1alpha1.Mapping{mapping("shop", "a", 1, one, port(80))}, map[string]conflicts.Use{}},
		{"ports, a range and two addresses", map[string]v1alpha1.PortGrantSpec{"a": {Addresses: two, Namespaces: shop}},
			[]*v1alpha1.Mapping{mapping("shop", "a", 1, two, port(80), ports(100, 109)), mapping("shop", "b", 1, one, udp(80))},
			map[string]conflicts.Use{"a": {Mappings: 2, Ports: 23}}},
		{"the one of the higher priority counts", map[string]v1alpha1.PortGrantSpec{"a": {Addresses: one, Namespaces: shop}, "b": {Addresses: one, Namespaces: shop, Priority: 1}},
			[]*v1alpha1.Mapping{mapping("shop", "a", 1, one, port(80))}, map[string]conflicts.Use{"b": {Mappings: 1, Ports: 1}}},
		{"each of two for its own", map[string]v1alpha1.PortGrantSpec{"a": {Addresses: one, Namespaces: shop}, "b": {Addresses: one, Namespaces: bank}},
			[]*v1alpha1.Mapping{mapping("shop", "a", 1, one, port(80)), mapping("bank", "a", 2, one, port(81))},
			map[string]conflicts.Use{"a": {Mappings: 1, Ports: 1}, "b": {Mappings: 1, Ports: 1}}},
		{"lost to an older Mapping", map[string]v1alpha1.PortGrantSpec{"a": {Addresses: one, Namespaces: append(shop, bank...)}},
			[]*v1alpha1.Mapping{mapping("shop", "a", 1, one, port(80)), mapping("bank", "a", 2, one, port(80))}, map[string]conflicts.Use{"a": {Mappings: 1, Ports: 1}}},
		{"part of a range is lost", map[string]v1alpha1.PortGrantSpec{"a": {Addresses: one, Namespaces: append(shop, bank...)}},
			[]*v1alpha1.Mapping{mapping("shop", "a", 1, one, port(105)), mapping("bank", "a", 2, one, ports(100, 109))}, map[string]conflicts.Use{"a": {Mappings: 2, Ports: 10}}},
		{"not granted", map[string]v1alpha1.PortGrantSpec{"a": {Addresses: one, Namespaces: bank}},
			[]*v1alpha1.Mapping{mapping("shop", "a", 1, one, port(80))}, map[string]conflicts.Use{}},
		{"too many ports", map[string]v1alpha1.PortGrantSpec{"a": {Addresses: one, Namespaces: shop, MaxPorts: 3}},
			[]*v1alpha1.Mapping{mapping("shop", "a", 1, one, port(80), port(81)), mapping("shop", "b", 2, one, ports(90, 91)), mapping("shop", "c", 3, one, port(95))},
			map[string]conflicts.Use{"a": {Mappings: 2, Ports: 3}}},
		{"an invalid grant", map[string]v1alpha1.PortGrantSpec{"a": invalid}, []*v1alpha1.Mapping{mapping("shop", "a", 1, one, port(80))}, map[string]conflicts.Use{}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var list []*v1alpha1.PortGrant
			for name, spec := range test.grants {
				list = append(list, &v1alpha1.PortGrant{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: spec})
			}
			if diff := cmp.Diff(test.want, conflicts.InUse(test.mappings, grants.New(list, nil, grants.Options{}))); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}
