// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package lab

import "fmt"

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

// Addresses for tests.
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

// The same addresses for IPv6.
const (
	ClientAddress6   = "2001:db8:c::10"
	Client2Address6  = "2001:db8:c::20"
	GatewayAddress6  = "fd00:10::2"
	ControlAddress6  = "fd00:10::10"
	Node1Address6    = "fd00:10::11"
	Node2Address6    = "fd00:10::12"
	External1v6      = "2001:db8:1::10" // and ::11 to ::14
	External2v6      = "2001:db8:2::10" // and ::11 to ::14
	ServiceNetwork6  = "fd00:96::/108"
	PodNetwork6      = "fd00:244::/32"
	podNetworkNode16 = "fd00:244:1::/64"
	podNetworkNode26 = "fd00:244:2::/64"
)

// segment is a layer 2 network: a bridge.
type segment string

const (
	clients  segment = "clients"
	outside1 segment = "outside1"
	outside2 segment = "outside2"
	cluster  segment = "cluster"
)

// hostSpec describes a host and its connections.
type hostSpec struct {
	name    string
	links   []linkSpec
	routes  []routeSpec
	sysctls map[string]string
}

type linkSpec struct {
	name      string
	segment   segment
	addresses []string // with prefix lengths
}

// routeSpec is a route in the main table. An empty destination is the default route.
type routeSpec struct{ destination, via string }

var (
	endHost = sysctls("0", "0")
	// A provider drops packets with a foreign source address, so a reply through the wrong uplink is lost. IPv6 has no
	// rp_filter; filterSources replaces it.
	strictRouter = sysctls("1", "1")
	// The gateway has the defaults of a distribution. smartnatd must set what it needs.
	strictHost = sysctls("0", "1")
	node       = sysctls("1", "0")
)

func sysctls(forward, reversePathFilter string) map[string]string {
	return map[string]string{
		"net.ipv4.ip_forward":             forward,
		"net.ipv6.conf.all.forwarding":    forward,
		"net.ipv4.conf.all.rp_filter":     reversePathFilter,
		"net.ipv4.conf.default.rp_filter": reversePathFilter,
	}
}

// topology returns the lab that README.md shows.
func topology() []hostSpec {
	pods := []routeSpec{
		{podNetworkNode1, Node1Address},
		{podNetworkNode2, Node2Address},
		{podNetworkNode16, Node1Address6},
		{podNetworkNode26, Node2Address6},
	}
	byClients := []routeSpec{{"", "192.0.2.1"}, {"", "2001:db8:c::1"}}
	byOutside1 := []routeSpec{{"", "198.51.100.1"}, {"", "2001:db8:1::1"}}
	byGateway := []routeSpec{{"", GatewayAddress}, {"", GatewayAddress6}}
	return []hostSpec{
		{Client, []linkSpec{{"eth0", clients, []string{ClientAddress + "/24", ClientAddress6 + "/64"}}}, byClients, endHost},
		{Client2, []linkSpec{{"eth0", clients, []string{Client2Address + "/24", Client2Address6 + "/64"}}}, byClients, endHost},
		{Router, []linkSpec{
			{"eth0", clients, []string{"192.0.2.1/24", "2001:db8:c::1/64"}},
			{"eth1", outside1, []string{"198.51.100.1/24", "2001:db8:1::1/64"}},
			{"eth2", outside2, []string{"203.0.113.1/24", "2001:db8:2::1/64"}},
		}, nil, strictRouter},
		{Rogue, []linkSpec{{"eth0", outside1, []string{"198.51.100.66/24", "2001:db8:1::66/64"}}}, byOutside1, endHost},
		{Gateway, []linkSpec{
			{"eth0", cluster, []string{GatewayAddress + "/24", GatewayAddress6 + "/64"}},
			{"eth1", outside1, append(five("198.51.100.1%d/24"), five("2001:db8:1::1%d/64")...)},
			{"eth2", outside2, append(five("203.0.113.1%d/24"), five("2001:db8:2::1%d/64")...)},
		}, append(byOutside1, pods...), strictHost},
		{Control, []linkSpec{{"eth0", cluster, []string{ControlAddress + "/24", ControlAddress6 + "/64"}}}, append(byGateway, pods...), endHost},
		{Node1, []linkSpec{{"eth0", cluster, []string{Node1Address + "/24", Node1Address6 + "/64"}}}, append(byGateway, pods[1], pods[3]), node},
		{Node2, []linkSpec{{"eth0", cluster, []string{Node2Address + "/24", Node2Address6 + "/64"}}}, append(byGateway, pods[0], pods[2]), node},
	}
}

// five returns the addresses with 0 to 4 in the format.
func five(format string) []string {
	var addresses []string
	for i := range 5 {
		addresses = append(addresses, fmt.Sprintf(format, i))
	}
	return addresses
}
