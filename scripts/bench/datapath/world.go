// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/smartnat/smartnat/scripts/lab"
)

// By these hosts the client reaches the pods without SmartNat. The first only routes. The second also tracks connections,
// as every host does that translates addresses or has a stateful firewall.
const (
	plainHost   = lab.Rogue
	trackedHost = lab.Control
)

// external are the gateway's addresses that ports are mapped on.
var external = map[string]string{"IPv4": lab.External1, "IPv6": lab.External1v6}

const gatewayConfig = `instance: gateway
source: {files: {paths: [/etc/smartnat/objects.yaml]}}
uplinks:
- {interface: eth1, gateways: [198.51.100.1, "2001:db8:1::1"]}
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
	// The lab keeps iptables off its bridges, which stand for wires. So must ip6tables be.
	if err := os.WriteFile("/proc/sys/net/bridge/bridge-nf-call-ip6tables", []byte("0"), 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, errors.Join(fmt.Errorf("keeping ip6tables off the bridges: %w", err), l.Stop())
	}
	if err := w.addWays(ctx, backend); err != nil {
		return nil, errors.Join(fmt.Errorf("the ways that are only routed: %w", err), l.Stop())
	}
	var ports []uint16
	for p := range portsPerMapping {
		ports = append(ports, uint16(firstTarget+p))
	}
	for _, node := range []string{lab.Node1, lab.Node2} {
		if err := serve(l.Host(node), ports); err != nil {
			return nil, errors.Join(fmt.Errorf("%s: %w", node, err), l.Stop())
		}
	}
	return w, nil
}

// addWays lets the router reach the pods by the two hosts, each by addresses of its own. The nodes themselves stand in for
// all their pods. What the gateway masquerades comes back to it, all else by the host that it came by: the client has an
// address for each.
func (w *world) addWays(ctx context.Context, backend string) error {
	for _, line := range []string{
		"ip link add plain type veth peer name eth1 netns " + plainHost,
		"ip link set plain master cluster up",
		"ip link add tracked type veth peer name eth1 netns " + trackedHost,
		"ip link set tracked master outside1 up",
	} {
		words := strings.Fields(line)
		if output, err := exec.CommandContext(ctx, words[0], words[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", line, err, output)
		}
	}
	track := "-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"
	steps := map[string][]string{
		plainHost: {"ip address add 10.10.0.66/24 dev eth1", "ip address add fd00:10::66/64 dev eth1 nodad", "ip link set eth1 up"},
		trackedHost: {
			"ip address add 198.51.100.67/24 dev eth1", "ip address add 2001:db8:1::67/64 dev eth1 nodad", "ip link set eth1 up",
			"ip route add 192.0.2.0/24 via 198.51.100.1", "ip route add 2001:db8:c::/64 via 2001:db8:1::1",
			"iptables-" + backend + " " + track, "ip6tables-" + backend + " " + track,
		},
		lab.Client: {
			"ip address add 192.0.2.110/24 dev eth0", "ip address add 2001:db8:c::110/64 dev eth0 nodad",
			"ip route add 10.245.0.0/16 via 192.0.2.1 src 192.0.2.110", "ip route add fd00:245::/32 via 2001:db8:c::1 src 2001:db8:c::110",
		},
		lab.Router: {
			"ip route add 10.244.0.0/16 via 198.51.100.66", "ip route add fd00:244::/32 via 2001:db8:1::66",
			"ip route add 10.245.0.0/16 via 198.51.100.67", "ip route add fd00:245::/32 via 2001:db8:1::67",
			"ip6tables -F FORWARD", // it would take the pods' addresses for forged ones
		},
	}
	for _, host := range []string{plainHost, trackedHost} {
		steps[host] = append(steps[host], "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")
	}
	for n, node := range []struct{ name, address, address6 string }{
		{lab.Node1, lab.Node1Address, lab.Node1Address6}, {lab.Node2, lab.Node2Address, lab.Node2Address6},
	} {
		steps[node.name] = []string{
			"ip route add 192.0.2.0/24 via 10.10.0.66", "ip route add 2001:db8:c::/64 via fd00:10::66",
			"ip route add 192.0.2.110/32 via " + lab.ControlAddress, "ip route add 2001:db8:c::110/128 via " + lab.ControlAddress6,
		}
		for pods, host := range map[int]string{plainPods: plainHost, trackedPods: trackedHost} {
			network, network6 := fmt.Sprintf("10.%d.%d.0/24", pods, n+1), fmt.Sprintf("fd00:%d:%d::/64", pods, n+1)
			steps[node.name] = append(steps[node.name], "ip route add local "+network+" dev lo", "ip route add local "+network6+" dev lo")
			steps[host] = append(steps[host], "ip route replace "+network+" via "+node.address, "ip route replace "+network6+" via "+node.address6)
		}
	}
	for host, lines := range steps {
		if err := w.exec(ctx, host, lines...); err != nil {
			return err
		}
	}
	return nil
}

// exec runs commands on a host.
func (w *world) exec(ctx context.Context, host string, lines ...string) error {
	for _, line := range lines {
		if _, err := w.Host(host).Exec(ctx, strings.Fields(line)...); err != nil {
			return err
		}
	}
	return nil
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
				program, external[family], firstPort, chance, podTargets(family, plainPods, 1)[k]))
		}
		lines = append(lines, program+" -t nat -A POSTROUTING -o eth0 -j MASQUERADE --random-fully")
	}
	return func() error {
		return w.exec(ctx, lab.Gateway, "iptables -t nat -F", "ip6tables -t nat -F", "sysctl -qw net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0")
	}, w.exec(ctx, lab.Gateway, lines...)
}

// forget empties the tables of connections, so that none of an earlier turn is in the way.
func (w *world) forget(ctx context.Context, family string) error {
	flush := "conntrack -F -f " + strings.ToLower(family)
	return errors.Join(w.exec(ctx, lab.Gateway, flush), w.exec(ctx, trackedHost, flush))
}
