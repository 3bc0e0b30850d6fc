// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package calc

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/objects"
)

func nodeByOneLink() (gateway.Host, config.Config) {
	prefix := netip.MustParsePrefix
	cfg := config.Default()
	cfg.Uplinks = []config.Uplink{{Interface: "eth0"}}
	cfg.Source.Kubeconfig = &config.Kubeconfig{Path: "/etc/smartnat/kubeconfig"}
	return gateway.Host{
		Links:         []gateway.Link{{Name: "eth0", Up: true, Addresses: []netip.Prefix{prefix("10.10.0.11/24")}}, {Name: "kube-ipvs0"}},
		DefaultRoutes: []gateway.DefaultRoute{{Link: "eth0", Gateway: netip.MustParseAddr("10.10.0.1")}},
		Routes:        []gateway.Route{{Destination: prefix("10.244.2.0/24"), Link: "eth0", Gateway: netip.MustParseAddr("10.10.0.12")}},
	}, cfg
}

// TestAPIServersAreInside believes only what an API server says about itself: everything else would open the boundary.
func TestAPIServersAreInside(t *testing.T) {
	addresses := func(n int) (list []string) {
		for i := range n {
			list = append(list, fmt.Sprintf("203.0.113.%d", 2*i+1))
		}
		return list
	}
	for _, tc := range []struct {
		name, slice string
		source      config.Source
		addresses   []string
		want        []string
	}{
		{name: "one", addresses: []string{"10.10.0.10"}, want: []string{"10.10.0.10/32"}},
		{name: "neighbours become one network of the same addresses", addresses: []string{"203.0.113.4", "203.0.113.5", "203.0.113.6"}, want: []string{"203.0.113.4/31", "203.0.113.6/32"}},
		{name: "another slice of the Service", slice: "kubernetes-x", addresses: []string{"203.0.113.9"}},
		{name: "a relay", source: config.Source{Relay: &config.Relay{}}, addresses: []string{"203.0.113.9"}},
		{name: "files", source: config.Source{Files: &config.Files{}}, addresses: []string{"203.0.113.9"}},
		{name: "too many", addresses: addresses(17)},
		{name: "special addresses", addresses: []string{"0.0.0.0", "0.1.2.3", "127.0.0.1", "169.254.169.254", "168.63.129.16", "224.0.0.1", "240.0.0.1", "255.255.255.255", "10.10.0.11"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			host, cfg := nodeByOneLink()
			if tc.source != (config.Source{}) {
				cfg.Source = tc.source
			}
			if tc.slice == "" {
				tc.slice = "kubernetes"
			}
			slice := &discoveryv1.EndpointSlice{AddressType: discoveryv1.AddressTypeIPv4, ObjectMeta: metav1.ObjectMeta{
				Namespace: "default", Name: tc.slice, Labels: map[string]string{discoveryv1.LabelServiceName: "kubernetes"},
			}}
			for _, a := range tc.addresses {
				slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{Addresses: []string{a}})
			}
			state, _ := Calculate(objects.Snapshot{EndpointSlices: []*discoveryv1.EndpointSlice{slice}}, host, cfg)
			var want []netip.Prefix
			for _, network := range append([]string{"10.10.0.12/32", "10.244.2.0/24"}, tc.want...) {
				want = append(want, netip.MustParsePrefix(network))
			}
			if diff := cmp.Diff(want, state.InsideNetworks, cmpopts.SortSlices(netip.Prefix.Compare), cmpopts.EquateComparable(netip.Prefix{})); diff != "" {
				t.Errorf("inside networks (-want +got):\n%s", diff)
			}
			if got := NeedsObjects(host, cfg); got != (cfg.Source.Kubeconfig != nil) {
				t.Errorf("the boundary waits for the objects: %v", got)
			}
		})
	}
}

// TestAggregateKeepsTheAddresses compares each address of a small network.
func TestAggregateKeepsTheAddresses(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 1000 {
		var networks []netip.Prefix
		for range 1 + random.IntN(24) {
			p, err := netip.AddrFrom4([4]byte{10, 10, 0, byte(random.IntN(64))}).Prefix(26 + random.IntN(7))
			if err != nil {
				t.Fatal(err)
			}
			networks = append(networks, p)
		}
		got := aggregate(networks)
		for last := range 256 {
			a := netip.AddrFrom4([4]byte{10, 10, 0, byte(last)})
			if contains(got, a) != contains(networks, a) {
				t.Fatalf("aggregate(%s) = %s: %s", networks, got, a)
			}
		}
	}
}
