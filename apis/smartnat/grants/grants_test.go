// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package grants_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/utils/ptr"

	"github.com/smartnat/smartnat/apis/smartnat/grants"
	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
)

func grant(name string, spec v1alpha1.PortGrantSpec) *v1alpha1.PortGrant {
	return &v1alpha1.PortGrant{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: spec}
}

func namespace(name string, labels map[string]string) *corev1.Namespace {
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}
}

// request returns a request of shop for 192.0.2.1:80/tcp, changed.
func request(change func(*grants.Request)) grants.Request {
	r := grants.Request{Namespace: "shop", Address: netip.MustParseAddr("192.0.2.1"), Protocol: v1alpha1.ProtocolTCP, First: 80, Last: 80}
	if change != nil {
		change(&r)
	}
	return r
}

func networks(texts ...string) []netip.Prefix {
	var all []netip.Prefix
	for _, text := range texts {
		all = append(all, netip.MustParsePrefix(text))
	}
	return all
}

func TestFind(t *testing.T) {
	one, shop := []string{"192.0.2.1"}, []string{"shop"}
	for _, test := range []struct {
		name     string
		grants   []*v1alpha1.PortGrant
		required bool
		change   func(*grants.Request)
		want     string // the name of the grant, or why there is none
	}{
		{"no grant needed", nil, false, nil, ""},
		{"all addresses need one, and there is none", nil, true, nil, "no PortGrant covers 192.0.2.1, and every address needs one"},
		{"another address is covered", []*v1alpha1.PortGrant{grant("a", v1alpha1.PortGrantSpec{Addresses: []string{"192.0.2.2"}, Namespaces: shop})}, false, nil, ""},
		{"all ports", []*v1alpha1.PortGrant{grant("a", v1alpha1.PortGrantSpec{Addresses: one, Namespaces: shop})}, false, nil, "PortGrant a"},
		{"by a network", []*v1alpha1.PortGrant{grant("a", v1alpha1.PortGrantSpec{Addresses: []string{"192.0.2.0/24"}, Namespaces: shop})}, false, nil, "PortGrant a"},
		{
			"another namespace", []*v1alpha1.PortGrant{grant("a", v1alpha1.PortGrantSpec{Addresses: one, Namespaces: []string{"bank"}})}, false, nil,
			"namespace shop has no PortGrant for 192.0.2.1; ask an administrator for one",
		},
		{
			"by label", []*v1alpha1.PortGrant{grant("a", v1alpha1.PortGrantSpec{
				Addresses: one, NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"tier": "gold"}},
			})}, false, nil, "PortGrant a",
		},
		{
			"by a label that the namespace lacks", []*v1alpha1.PortGrant{grant("a", v1alpha1.PortGrantSpec{
				Addresses: one, NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"tier": "silver"}},
			})}, false, nil, "namespace shop has no PortGrant for 192.0.2.1; ask an administrator for one",
		},
		{"an empty selector selects all", []*v1alpha1.PortGrant{grant("a", v1alpha1.PortGrantSpec{Addresses: one, NamespaceSelector: &metav1.LabelSelector{}})}, false, nil, "PortGrant a"},
		{
			"for no namespace: it grants nothing, and keeps its address", []*v1alpha1.PortGrant{grant("a", v1alpha1.PortGrantSpec{Addresses: one})}, false, nil,
			"namespace shop has no PortGrant for 192.0.2.1; ask an administrator for one",
		},
		{
			"a port range upside down grants nothing", []*v1alpha1.PortGrant{grant("a", v1alpha1.PortGrantSpec{
				Addresses: one, Namespaces: shop, Ports: []v1alpha1.GrantedPorts{{Port: 90, EndPort: ptr.To[int32](80)}},
			})}, false, nil, "namespace shop has no PortGrant for 192.0.2.1; ask an administrator for one",
		},
		{
			"another port", []*v1alpha1.PortGrant{grant("a", v1alpha1.PortGrantSpec{
				Addresses: one, Namespaces: shop, Ports: []v1alpha1.GrantedPorts{{Port: 443, Protocol: "TCP"}, {Port: 1000, EndPort: ptr.To[int32](1999)}},
			})}, false, nil, "PortGrant a gives namespace shop only 443/tcp, 1000-1999 of it",
		},
		{
			"another protocol", []*v1alpha1.PortGrant{grant("a", v1alpha1.PortGrantSpec{
				Addresses: one, Namespaces: shop, Ports: []v1alpha1.GrantedPorts{{Port: 80, Protocol: "udp"}},
			})}, false, nil, "PortGrant a gives namespace shop only 80/udp of it",
		},
		{
			"a range that two grants share does not add up", []*v1alpha1.PortGrant{
				grant("a", v1alpha1.PortGrantSpec{Addresses: one, Namespaces: shop, Ports: []v1alpha1.GrantedPorts{{Port: 1, EndPort: ptr.To[int32](80)}}}),
				grant("b", v1alpha1.PortGrantSpec{Addresses: one, Namespaces: shop, Ports: []v1alpha1.GrantedPorts{{Port: 81, EndPort: ptr.To[int32](90)}}}),
			}, false, func(r *grants.Request) { r.Last = 81 }, "PortGrant a gives namespace shop only 1-80 of it",
		},
		{
			"overlapping grants: the highest priority", []*v1alpha1.PortGrant{
				grant("a", v1alpha1.PortGrantSpec{Addresses: one, Namespaces: shop}),
				grant("c", v1alpha1.PortGrantSpec{Addresses: []string{"192.0.2.0/24"}, Namespaces: shop, Priority: 5}),
				grant("b", v1alpha1.PortGrantSpec{Addresses: one, Namespaces: shop, Priority: 5}),
			}, false, nil, "PortGrant b",
		},
		{
			"everyone may connect, but the grant is for some sources", []*v1alpha1.PortGrant{grant("a", v1alpha1.PortGrantSpec{Addresses: one, Namespaces: shop, AllowedSources: []string{"10.0.0.0/8"}})},
			false, nil, "PortGrant a needs allowedSources within 10.0.0.0/8",
		},
		{
			"a source outside of the grant's", []*v1alpha1.PortGrant{grant("a", v1alpha1.PortGrantSpec{Addresses: one, Namespaces: shop, AllowedSources: []string{"10.0.0.0/8"}})},
			false, func(r *grants.Request) { r.Sources = networks("10.1.0.0/16", "0.0.0.0/0") }, "allowedSources has 0.0.0.0/0, but PortGrant a needs sources within 10.0.0.0/8",
		},
		{
			"sources within, and others of the other family", []*v1alpha1.PortGrant{grant("a", v1alpha1.PortGrantSpec{Addresses: one, Namespaces: shop, AllowedSources: []string{"10.0.0.0/8"}})},
			false, func(r *grants.Request) { r.Sources = networks("10.1.0.0/16", "2001:db8::/32") }, "PortGrant a",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := grants.New(test.grants, []*corev1.Namespace{namespace("shop", map[string]string{"tier": "gold"})}, grants.Options{Required: test.required})
			found, why := g.Find(request(test.change))
			if found != nil {
				why = found.String()
			}
			if diff := cmp.Diff(test.want, why); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
			// The same again from what was parsed before.
			again := grants.New(test.grants, []*corev1.Namespace{namespace("shop", map[string]string{"tier": "gold"})}, grants.Options{Required: test.required, Before: g})
			if reused, _ := again.Find(request(test.change)); reused != found || !again.SameCoverage(g) || !again.SameFor("shop", g) {
				t.Errorf("built again, it differs: %v", reused)
			}
		})
	}
}

func TestChangesAreFound(t *testing.T) {
	shop, bank := namespace("shop", nil), namespace("bank", map[string]string{"tier": "gold"})
	a := grant("a", v1alpha1.PortGrantSpec{Addresses: []string{"192.0.2.1"}, Namespaces: []string{"shop"}})
	b := grant("b", v1alpha1.PortGrantSpec{Addresses: []string{"192.0.2.1"}, NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"tier": "gold"}}})
	before := grants.New([]*v1alpha1.PortGrant{a, b}, []*corev1.Namespace{shop, bank}, grants.Options{})
	for _, test := range []struct {
		name                  string
		grants                []*v1alpha1.PortGrant
		namespaces            []*corev1.Namespace
		coverage, shop, other bool
	}{
		{"a grant is revoked", []*v1alpha1.PortGrant{b}, []*corev1.Namespace{shop, bank}, true, false, true},
		{"a namespace gets a label", []*v1alpha1.PortGrant{a, b}, []*corev1.Namespace{namespace("shop", map[string]string{"tier": "gold"}), bank}, true, false, true},
		{"a namespace loses a label", []*v1alpha1.PortGrant{a, b}, []*corev1.Namespace{shop, namespace("bank", nil)}, true, true, false},
		{"another address is covered", []*v1alpha1.PortGrant{a, b, grant("c", v1alpha1.PortGrantSpec{Addresses: []string{"192.0.2.2"}})}, []*corev1.Namespace{shop, bank}, false, true, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			now := grants.New(test.grants, test.namespaces, grants.Options{Before: before})
			got := []bool{now.SameCoverage(before), now.SameFor("shop", before), now.SameFor("bank", before)}
			if diff := cmp.Diff([]bool{test.coverage, test.shop, test.other}, got); diff != "" {
				t.Errorf("same coverage, same for shop, same for bank: -want +got\n%s", diff)
			}
		})
	}
}

// TestOf builds Grants of random PortGrants and namespaces, one change after another, and compares them with a plain match of each
// selector with each namespace.
func TestOf(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	value := func() string { return fmt.Sprint("v", random.IntN(3)) }
	portGrant := func(i int) *v1alpha1.PortGrant {
		spec := v1alpha1.PortGrantSpec{Addresses: []string{"192.0.2.1"}, Priority: int32(random.IntN(2))}
		for range random.IntN(3) {
			if name := fmt.Sprint("n", random.IntN(12)); !slices.Contains(spec.Namespaces, name) {
				spec.Namespaces = append(spec.Namespaces, name)
			}
		}
		key := []string{"a", "b"}[random.IntN(2)]
		switch random.IntN(7) {
		case 0:
			spec.NamespaceSelector = &metav1.LabelSelector{}
		case 1, 2:
			spec.NamespaceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{key: value()}}
		case 3:
			spec.NamespaceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"a": value(), "b": value()}}
		case 4:
			operator := []metav1.LabelSelectorOperator{metav1.LabelSelectorOpIn, metav1.LabelSelectorOpNotIn}[random.IntN(2)]
			spec.NamespaceSelector = &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: key, Operator: operator, Values: []string{"v0", "v2"}}}}
		case 5:
			operator := []metav1.LabelSelectorOperator{metav1.LabelSelectorOpExists, metav1.LabelSelectorOpDoesNotExist}[random.IntN(2)]
			spec.NamespaceSelector = &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: key, Operator: operator}}}
		}
		return grant(fmt.Sprint("g", i), spec)
	}
	labelled := func(i int) *corev1.Namespace {
		all := map[string]string{}
		for _, key := range []string{"a", "b"} {
			if random.IntN(3) > 0 {
				all[key] = value()
			}
		}
		return namespace(fmt.Sprint("n", i), all)
	}
	var list []*v1alpha1.PortGrant
	var namespaces []*corev1.Namespace
	for i := range 8 {
		list, namespaces = append(list, portGrant(i)), append(namespaces, labelled(i))
	}
	var g *grants.Grants
	found := 0
	for range 2000 {
		list, namespaces = slices.Clone(list), slices.Clone(namespaces)
		switch i := random.IntN(8); random.IntN(4) {
		case 0:
			list[i] = portGrant(i)
		default:
			namespaces[i] = labelled(i)
		}
		g = grants.New(list, namespaces, grants.Options{Before: g})
		for i := range 12 { // some are in no list
			name, set := fmt.Sprint("n", i), labels.Set{}
			if i < len(namespaces) {
				set = namespaces[i].Labels
			}
			var want []string
			for _, p := range list {
				selector, err := metav1.LabelSelectorAsSelector(p.Spec.NamespaceSelector)
				if err != nil {
					t.Fatal(err)
				}
				// Without labels, an unknown namespace is not matched, but by a selector of all.
				if slices.Contains(p.Spec.Namespaces, name) || p.Spec.NamespaceSelector != nil && (selector.Empty() || i < len(namespaces) && selector.Matches(set)) {
					want = append(want, fmt.Sprint(p.Spec.Priority == 0, p.Name))
				}
			}
			slices.Sort(want)
			var got []string
			for _, own := range g.Of(name) {
				got = append(got, fmt.Sprint(own.Priority == 0, own.Name))
			}
			found += len(got)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Fatalf("%s: -want +got\n%s", name, diff)
			}
		}
	}
	if found == 0 {
		t.Error("no namespace had a grant")
	}
}

func TestLedger(t *testing.T) {
	g := grants.New([]*v1alpha1.PortGrant{grant("a", v1alpha1.PortGrantSpec{Addresses: []string{"192.0.2.1"}, NamespaceSelector: &metav1.LabelSelector{}, MaxPorts: 10})}, nil, grants.Options{})
	found, why := g.Find(request(nil))
	if found == nil {
		t.Fatal(why)
	}
	ledger := grants.Ledger{}
	for _, test := range []struct {
		namespace string
		n         int
		want      string
	}{
		{"shop", 8, ""},
		{"shop", 3, "with it, namespace shop would use 11 ports of PortGrant a, which gives it 10 (maxPorts); older Mappings come first"},
		{"shop", 2, ""},
		{"bank", 10, ""},
		{"shop", 1, "with it, namespace shop would use 11 ports of PortGrant a, which gives it 10 (maxPorts); older Mappings come first"},
	} {
		if got := ledger.Take(found, test.namespace, test.n); got != test.want {
			t.Errorf("%d of %s: %q, want %q", test.n, test.namespace, got, test.want)
		}
	}
	if why := ledger.Take(nil, "shop", 1000); why != "" {
		t.Errorf("without a grant: %s", why)
	}
}

func TestRefusesEgress(t *testing.T) {
	spec := v1alpha1.PortGrantSpec{Addresses: []string{"192.0.2.1"}, Namespaces: []string{"shop"}}
	without := grant("without", spec)
	spec.Egress = true
	with := grant("with", spec)
	address, other := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	refused := "no PortGrant gives namespace shop egress with 192.0.2.1; ask an administrator for one"
	if got := grants.New([]*v1alpha1.PortGrant{without}, nil, grants.Options{}).RefusesEgress("shop", address); got != refused {
		t.Errorf("without: %q", got)
	}
	both := grants.New([]*v1alpha1.PortGrant{without, with}, nil, grants.Options{})
	if got := both.RefusesEgress("shop", address) + both.RefusesEgress("bank", other); got != "" {
		t.Errorf("with: %q", got)
	}
	if got := both.RefusesEgress("bank", address); got == "" {
		t.Error("another namespace may leave with the address")
	}
}
