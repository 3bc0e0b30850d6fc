// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package lab

// The hosts of the lab. Pods are hosts too, named POD.NAMESPACE.
const (
	Client  = "client"  // outside, behind the router
	Client2 = "client2" // another one, with an address in the same network
	Router  = "router"  // the provider's router on both external segments
	Rogue   = "rogue"   // a neighbour of the gateway on the first external segment
	Gateway = "gateway" // where smartnatd runs
	Control = "control" // etcd, kube-apiserver, kube-controller-manager, kubectl
	Node1   = "node1"   // kube-proxy, pods, and smartnat-relay
	Node2   = "node2"   // kube-proxy, pods
)

// Addresses that tests speak of.
const (
	ClientAddress   = "192.0.2.10"
	Client2Address  = "192.0.2.20"
	GatewayAddress  = "10.10.0.2" // on the cluster's network
	ControlAddress  = "10.10.0.10"
	Node1Address    = "10.10.0.11"
	Node2Address    = "10.10.0.12"
	External1       = "198.51.100.10" // the gateway's first uplink, eth1, holds this one and .11 to .14
	External2       = "203.0.113.10"  // and its second, eth2, this one and .11 to .14
	ServiceNetwork  = "10.96.0.0/16"
	PodNetwork      = "10.244.0.0/16"
	podNetworkNode1 = "10.244.1.0/24"
	podNetworkNode2 = "10.244.2.0/24"
)

// segment is a bridge: one layer 2 network.
type segment string

const (
	clients  segment = "clients"
	outside1 segment = "outside1"
	outside2 segment = "outside2"
	cluster  segment = "cluster"
)

// hostSpec says how a host is joined to the world. A further address family is a further entry in its lists.
type hostSpec struct {
	name    string
	links   []linkSpec
	routes  []routeSpec
	sysctls map[string]string
}

type linkSpec struct {
	name      string
	segment   segment
	addresses []string // with their prefix lengths
}

// routeSpec is a route of the main table; the empty destination is everything else.
type routeSpec struct{ destination, via string }

var (
	endHost = map[string]string{"net.ipv4.ip_forward": "0", "net.ipv4.conf.all.rp_filter": "0", "net.ipv4.conf.default.rp_filter": "0"}
	// A provider drops what its customers send with another's address, so a reply by the wrong uplink is lost.
	strictRouter = map[string]string{"net.ipv4.ip_forward": "1", "net.ipv4.conf.all.rp_filter": "1", "net.ipv4.conf.default.rp_filter": "1"}
	// The gateway is as a distribution delivers it: what smartnatd needs, it must set.
	strictHost = map[string]string{"net.ipv4.ip_forward": "0", "net.ipv4.conf.all.rp_filter": "1", "net.ipv4.conf.default.rp_filter": "1"}
	node       = map[string]string{"net.ipv4.ip_forward": "1", "net.ipv4.conf.all.rp_filter": "0", "net.ipv4.conf.default.rp_filter": "0"}
)

// topology is the lab as README.md draws it.
func topology() []hostSpec {
	return []hostSpec{
		{Client, []linkSpec{{"eth0", clients, []string{ClientAddress + "/24"}}}, []routeSpec{{"", "192.0.2.1"}}, endHost},
		{Client2, []linkSpec{{"eth0", clients, []string{Client2Address + "/24"}}}, []routeSpec{{"", "192.0.2.1"}}, endHost},
		{Router, []linkSpec{
			{"eth0", clients, []string{"192.0.2.1/24"}},
			{"eth1", outside1, []string{"198.51.100.1/24"}},
			{"eth2", outside2, []string{"203.0.113.1/24"}},
		}, nil, strictRouter},
		{Rogue, []linkSpec{{"eth0", outside1, []string{"198.51.100.66/24"}}}, []routeSpec{{"", "198.51.100.1"}}, endHost},
		{Gateway, []linkSpec{
			{"eth0", cluster, []string{GatewayAddress + "/24"}},
			{"eth1", outside1, []string{External1 + "/24", "198.51.100.11/24", "198.51.100.12/24", "198.51.100.13/24", "198.51.100.14/24"}},
			{"eth2", outside2, []string{External2 + "/24", "203.0.113.11/24", "203.0.113.12/24", "203.0.113.13/24", "203.0.113.14/24"}},
		}, []routeSpec{{"", "198.51.100.1"}, {podNetworkNode1, Node1Address}, {podNetworkNode2, Node2Address}}, strictHost},
		{Control, []linkSpec{{"eth0", cluster, []string{ControlAddress + "/24"}}}, []routeSpec{
			{"", GatewayAddress}, {podNetworkNode1, Node1Address}, {podNetworkNode2, Node2Address},
		}, endHost},
		{Node1, []linkSpec{{"eth0", cluster, []string{Node1Address + "/24"}}}, []routeSpec{{"", GatewayAddress}, {podNetworkNode2, Node2Address}}, node},
		{Node2, []linkSpec{{"eth0", cluster, []string{Node2Address + "/24"}}}, []routeSpec{{"", GatewayAddress}, {podNetworkNode1, Node1Address}}, node},
	}
}
