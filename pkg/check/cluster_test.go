// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package check

import (
	"net/netip"
	"testing"

	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/objects"
)

// TestClusterBehindAnUplink checks that check refuses an uplink that leads to pods, unless the boundary lets them pass.
func TestClusterBehindAnUplink(t *testing.T) {
	slice := func(manager, address string) objects.Snapshot {
		return objects.Snapshot{EndpointSlices: []*discoveryv1.EndpointSlice{{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "echo-1", Labels: map[string]string{
				discoveryv1.LabelServiceName: "echo", discoveryv1.LabelManagedBy: manager,
			}},
			AddressType: discoveryv1.AddressTypeIPv4, Endpoints: []discoveryv1.Endpoint{{Addresses: []string{address}}},
		}}}
	}
	const controller = "endpointslice-controller.k8s.io"
	node := uplinkHost("10.10.0.11/24")
	node.Others.ServiceProxy = "kube-proxy (iptables)"
	node.DefaultRoutes = []gateway.DefaultRoute{{Link: "eth1", Gateway: netip.MustParseAddr("10.10.0.1")}}
	routed := node
	routed.Routes = []gateway.Route{{Destination: netip.MustParsePrefix("10.244.2.0/24"), Link: "eth1", Gateway: netip.MustParseAddr("10.10.0.12")}}
	other := node
	other.Others = gateway.OtherRules{}
	const refused = "FAILED  insideNetworks|pods such as 10.244.2.5 are behind eth1|write insideNetworks: [NODES, PODS]"
	for _, test := range []struct {
		name     string
		inside   []string
		host     gateway.Host
		snapshot objects.Snapshot
		want     []string
	}{
		{"only a default route leads to pods", nil, node, slice(controller, "10.244.2.5"), []string{refused}},
		{"the config has their network", []string{"10.244.0.0/16"}, node, slice(controller, "10.244.2.5"), nil},
		{"the config has another network", []string{"10.245.0.0/16"}, node, slice(controller, "10.244.2.5"), []string{refused}},
		{"a route by another node is found", nil, routed, slice(controller, "10.244.2.5"), nil},
		{"this host is no node", nil, other, slice(controller, "10.244.2.5"), nil},
		{"a slice that no controller wrote", nil, node, slice("", "10.244.2.5"), nil},
		{"an address of the Internet", nil, node, slice(controller, "192.0.2.5"), nil},
		{"a node", nil, node, slice(controller, "10.10.0.12"), nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			cfg := config.Default()
			cfg.Uplinks = []config.Uplink{{Interface: "eth1"}}
			for _, network := range test.inside {
				cfg.InsideNetworks = append(cfg.InsideNetworks, netip.MustParsePrefix(network))
			}
			expect(t, Cluster(test.snapshot, test.host, cfg), test.want...)
		})
	}
	cfg := config.Default()
	cfg.Uplinks = []config.Uplink{{Interface: "eth1"}}
	cfg.InsideNetworks = []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")}
	expect(t, Uplinks(cfg, routed), "FAILED  uplinks|10.10.0.12/32|add these networks")
}
