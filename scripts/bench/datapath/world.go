// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/smartnat/smartnat/scripts/bench/load"
	"github.com/smartnat/smartnat/scripts/bench/ways"
	"github.com/smartnat/smartnat/scripts/lab"
)

// external are the gateway's addresses that ports are mapped on.
var external = map[string]string{"IPv4": lab.External1, "IPv6": lab.External1v6}

const gatewayConfig = `instance: gateway
source: {files: {paths: [/etc/smartnat/objects.yaml]}}
uplinks:
- {interface: eth1, gateways: [198.51.100.1, "2001:db8:1::1"]}
maxPortsPerNamespace: 0
maxRulesPerNamespace: 0
`

// world is a lab with three ways from the client to the pods: by the gateway and by the two hosts that route.
type world struct {
	*lab.Lab
	daemon *lab.Process
}

func newWorld(ctx context.Context, backend string) (*world, error) {
	l, err := lab.Start(ctx, lab.WithoutControlPlane(), lab.WithBackend(backend))
	if err != nil {
		return nil, err
	}
	w := &world{Lab: l}
	if err := ways.Add(ctx, l, backend); err != nil {
		return nil, errors.Join(fmt.Errorf("the ways that are only routed: %w", err), l.Stop())
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

// exec runs commands on a host.
func (w *world) exec(ctx context.Context, host string, lines ...string) error {
	return ways.Exec(ctx, w.Host(host), lines...)
}

// program has smartnatd map the ports and returns how long that took from its start.
func (w *world) program(ctx context.Context, ports int) (time.Duration, error) {
	if err := w.endDaemon(ctx); err != nil {
		return 0, err
	}
	text := manifests([]string{external["IPv4"], external["IPv6"]}, ports)
	if err := w.Host(lab.Gateway).WriteFile("/etc/smartnat/objects.yaml", text); err != nil {
		return 0, err
	}
	started := time.Now()
	daemon, err := w.StartGateway(ctx, gatewayConfig)
	w.daemon = daemon
	return time.Since(started), err
}

// endDaemon ends smartnatd, which leaves its rules.
func (w *world) endDaemon(ctx context.Context) error {
	if w.daemon == nil {
		return nil
	}
	err := w.daemon.Stop(ctx)
	w.daemon = nil
	return err
}

// byHand does for the first port what one would without SmartNat, and returns what undoes it.
func (w *world) byHand(ctx context.Context) (undo func() error, err error) {
	lines := []string{"sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1"}
	for family, program := range map[string]string{"IPv4": "iptables", "IPv6": "ip6tables"} {
		for k, chance := range []string{"-m statistic --mode random --probability 0.3333", "-m statistic --mode random --probability 0.5", ""} {
			lines = append(lines, fmt.Sprintf("%s -t nat -A PREROUTING -d %s -p tcp --dport %d %s -j DNAT --to-destination %s",
				program, external[family], ways.FirstPort, chance, ways.PodTargets(family, ways.PlainPods, 1)[k]))
		}
		lines = append(lines, program+" -t nat -A POSTROUTING -o eth0 -j MASQUERADE --random-fully")
	}
	return func() error {
		return w.exec(ctx, lab.Gateway, "iptables -t nat -F", "ip6tables -t nat -F", "sysctl -qw net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0")
	}, w.exec(ctx, lab.Gateway, lines...)
}
