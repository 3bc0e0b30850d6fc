// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"context"
	"fmt"
	"net"
	"os/exec"
	"strings"

	"github.com/smartnat/smartnat/pkg/testenv"
)

// topology is a batch of ip(8): a client on the gateway's uplink, and a node with two pods on its inside link.
var topology = []string{
	"netns add client", "netns add gateway", "netns add node", "netns add pod-1", "netns add pod-2",
	"link add eth0 netns client type veth peer name eth1 netns gateway",
	"link add eth0 netns gateway type veth peer name eth0 netns node",
	"link add pod-1 netns node type veth peer name eth0 netns pod-1",
	"link add pod-2 netns node type veth peer name eth0 netns pod-2",
	"-n client address add 198.51.100.20/24 dev eth0",
	"-n client address add 198.51.100.30/24 dev eth0",
	"-n gateway address add 198.51.100.10/24 dev eth1",
	"-n gateway address add 10.10.0.2/24 dev eth0",
	"-n node address add 10.10.0.11/24 dev eth0",
	"-n node address add 169.254.1.1/32 dev lo",
	"-n pod-1 address add 10.244.1.2/32 dev eth0",
	"-n pod-2 address add 10.244.1.3/32 dev eth0",
	"-n client link set eth0 up", "-n gateway link set eth1 up", "-n gateway link set eth0 up",
	"-n node link set lo up", "-n node link set eth0 up", "-n node link set pod-1 up", "-n node link set pod-2 up",
	"-n pod-1 link set eth0 up", "-n pod-2 link set eth0 up",
	"-n gateway route add default via 198.51.100.20",
	"-n gateway route add 10.244.0.0/16 via 10.10.0.11",
	"-n node route add default via 10.10.0.2",
	"-n node route add 10.244.1.2 dev pod-1",
	"-n node route add 10.244.1.3 dev pod-2",
	"-n pod-1 route add default dev eth0", "-n pod-2 route add default dev eth0",
}

// build makes the hosts and wires them. Pods reach everything through their node, which answers ARP for it.
func build(ctx context.Context) error {
	for _, line := range topology {
		if _, err := run(ctx, append([]string{"ip"}, strings.Fields(line)...)...); err != nil {
			return err
		}
	}
	_, err := run(ctx, "ip", "netns", "exec", "node", "sysctl", "-qw", "net.ipv4.ip_forward=1",
		"net.ipv4.conf.pod-1.proxy_arp=1", "net.ipv4.conf.pod-2.proxy_arp=1")
	return err
}

// run runs a program and returns its output.
func run(ctx context.Context, argv ...string) (string, error) {
	output, err := exec.CommandContext(ctx, argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, output)
	}
	return string(output), nil
}

// dialer dials from a source address of a host.
func dialer(host, source string) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (conn net.Conn, err error) {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(source)}}
		err = testenv.InNetNS(host, func() (err error) {
			conn, err = d.DialContext(ctx, network, address)
			return err
		})
		return conn, err
	}
}
