// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/smartnat/smartnat/scripts/bench/load"
	"github.com/smartnat/smartnat/scripts/bench/ways"
	"github.com/smartnat/smartnat/scripts/lab"
)

// external maps a family to the gateway's address with the mapped ports.
var external = map[string]string{"IPv4": lab.External1, "IPv6": lab.External1v6}

const gatewayConfig = `instance: gateway
source: {files: {paths: [/etc/smartnat/objects.yaml]}}
uplinks:
- {interface: eth1, gateways: [198.51.100.1, "2001:db8:1::1"]}
maxPortsPerNamespace: 0
maxRulesPerNamespace: 0
`

// world is a lab with three paths from the client to the pods: through the gateway and through the two routing hosts.
type world struct {
	*lab.Lab
	daemon *lab.Process
	// native means that smartnatd and the manual rules use nf_tables without iptables.
	native bool
}

// nftables is the native API of nf_tables. "nft" is iptables on it.
const nftables = "nftables"

func newWorld(ctx context.Context, backend string) (*world, error) {
	variant := "nf_tables"
	if backend == "legacy" {
		variant = "legacy"
	}
	l, err := lab.Start(ctx, lab.WithoutControlPlane(), lab.WithVariant(variant))
	if err != nil {
		return nil, err
	}
	w := &world{Lab: l, native: backend == nftables}
	if w.native {
		backend = "nft"
	}
	if err := ways.Add(ctx, l, backend); err != nil {
		return nil, errors.Join(fmt.Errorf("adding the routing hosts: %w", err), l.Stop())
	}
	var ports []uint16
	for p := range ways.PortsPerMapping {
		ports = append(ports, uint16(ways.FirstTarget+p))
	}
	for _, node := range []string{lab.Node1, lab.Node2} {
		if err := load.Serve(l.Host(node), ports); err != nil {
			return nil, errors.Join(fmt.Errorf("%s: %w", node, err), l.Stop())
		}
	}
	return w, nil
}

// exec runs commands on the gateway.
func (w *world) exec(ctx context.Context, lines ...string) error {
	return ways.Exec(ctx, w.Host(lab.Gateway), lines...)
}

// program makes smartnatd map the ports and returns the time from its start until it was ready.
func (w *world) program(ctx context.Context, ports int) (time.Duration, error) {
	if err := w.endDaemon(ctx); err != nil {
		return 0, err
	}
	text := manifests([]string{external["IPv4"], external["IPv6"]}, ports)
	if err := w.Host(lab.Gateway).WriteFile("/etc/smartnat/objects.yaml", text); err != nil {
		return 0, err
	}
	started := time.Now()
	plane := "iptables"
	if w.native {
		plane = nftables
	}
	daemon, err := w.StartGateway(ctx, gatewayConfig+"dataplane: "+plane+"\n")
	w.daemon = daemon
	return time.Since(started), err
}

// endDaemon stops smartnatd, which leaves its rules.
func (w *world) endDaemon(ctx context.Context) error {
	if w.daemon == nil {
		return nil
	}
	err := w.daemon.Stop(ctx)
	w.daemon = nil
	return err
}

// byHand adds manual rules for the first port and returns a function that removes them.
func (w *world) byHand(ctx context.Context) (undo func() error, err error) {
	if w.native {
		return w.byHandNative(ctx)
	}
	lines := []string{"sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1"}
	for family, program := range map[string]string{"IPv4": "iptables", "IPv6": "ip6tables"} {
		for k, chance := range []string{"-m statistic --mode random --probability 0.3333", "-m statistic --mode random --probability 0.5", ""} {
			lines = append(lines, fmt.Sprintf("%s -t nat -A PREROUTING -d %s -p tcp --dport %d %s -j DNAT --to-destination %s",
				program, external[family], ways.FirstPort, chance, ways.PodTargets(family, ways.PlainPods, 1)[k]))
		}
		lines = append(lines, program+" -t nat -A POSTROUTING -o eth0 -j MASQUERADE --random-fully")
	}
	return func() error {
		return w.exec(ctx, "iptables -t nat -F", "ip6tables -t nat -F", "sysctl -qw net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0")
	}, w.exec(ctx, lines...)
}

// byHandNative is byHand with nft(8).
func (w *world) byHandNative(ctx context.Context) (undo func() error, err error) {
	lines := []string{"sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1"}
	for family, name := range map[string]string{"IPv4": "ip", "IPv6": "ip6"} {
		pods := ways.PodTargets(family, ways.PlainPods, 1)
		lines = append(lines,
			"nft add table "+name+" manual",
			"nft add chain "+name+" manual prerouting { type nat hook prerouting priority -100 ; }",
			"nft add chain "+name+" manual postrouting { type nat hook postrouting priority 100 ; }",
			fmt.Sprintf("nft add rule %s manual prerouting %s daddr %s tcp dport %d dnat to numgen random mod 3 map { 0 : %s , 1 : %s , 2 : %s }",
				name, name, external[family], ways.FirstPort, addressAndPort(pods[0]), addressAndPort(pods[1]), addressAndPort(pods[2])),
			"nft add rule "+name+" manual postrouting oifname eth0 masquerade fully-random",
		)
	}
	return func() error {
		return w.exec(ctx, "nft delete table ip manual", "nft delete table ip6 manual", "sysctl -qw net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0")
	}, w.exec(ctx, lines...)
}

// addressAndPort spells a target as a value of a map.
func addressAndPort(target netip.AddrPort) string {
	return fmt.Sprintf("%s . %d", target.Addr(), target.Port())
}
