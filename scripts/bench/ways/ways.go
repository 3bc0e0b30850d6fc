// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package ways adds to the lab two paths from the client to the pods through hosts that only route, in addition to the path
// through the gateway, and compares loads on them. It knows nothing of what the gateway does.
package ways

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"

	"github.com/smartnat/smartnat/scripts/lab"
)

// The client reaches the pods through these hosts without SmartNat. The first one only routes. The second one also tracks
// connections, as every host with NAT or a stateful firewall does.
const (
	PlainHost   = lab.Rogue
	TrackedHost = lab.Control
)

// Add makes the router reach the pods through the two hosts, with a separate address range for each. The nodes answer for all
// their pods. Replies to masqueraded connections return to the gateway, and all others through the host that they came
// through: the client has a separate address for each.
func Add(ctx context.Context, l *lab.Lab, backend string) error {
	// The lab's bridges model wires and bypass iptables. Make them bypass ip6tables too.
	if err := os.WriteFile("/proc/sys/net/bridge/bridge-nf-call-ip6tables", []byte("0"), 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("making bridges bypass ip6tables: %w", err)
	}
	for _, left := range []string{"plain", "tracked"} {
		// The kernel removes the namespaces of a previous lab, and the links into them, with a delay if they contain many
		// rules.
		_ = exec.CommandContext(ctx, "ip", "link", "delete", left).Run()
	}
	for _, line := range []string{
		"ip link add plain type veth peer name eth1 netns " + PlainHost,
		"ip link set plain master cluster up",
		"ip link add tracked type veth peer name eth1 netns " + TrackedHost,
		"ip link set tracked master outside1 up",
	} {
		words := strings.Fields(line)
		if output, err := exec.CommandContext(ctx, words[0], words[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", line, err, output)
		}
	}
	track := "-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"
	steps := map[string][]string{
		PlainHost: {"ip address add 10.10.0.66/24 dev eth1", "ip address add fd00:10::66/64 dev eth1 nodad", "ip link set eth1 up"},
		TrackedHost: {
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
			"ip6tables -F FORWARD", // its filter would drop the pods' addresses as spoofed
		},
	}
	for _, host := range []string{PlainHost, TrackedHost} {
		steps[host] = append(steps[host], "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")
	}
	for n, node := range []struct{ name, address, address6 string }{
		{lab.Node1, lab.Node1Address, lab.Node1Address6}, {lab.Node2, lab.Node2Address, lab.Node2Address6},
	} {
		steps[node.name] = []string{
			"ip route add 192.0.2.0/24 via 10.10.0.66", "ip route add 2001:db8:c::/64 via fd00:10::66",
			"ip route add 192.0.2.110/32 via " + lab.ControlAddress, "ip route add 2001:db8:c::110/128 via " + lab.ControlAddress6,
		}
		for pods, host := range map[int]string{PlainPods: PlainHost, TrackedPods: TrackedHost} {
			network, network6 := fmt.Sprintf("10.%d.%d.0/24", pods, n+1), fmt.Sprintf("fd00:%d:%d::/64", pods, n+1)
			steps[node.name] = append(steps[node.name], "ip route add local "+network+" dev lo", "ip route add local "+network6+" dev lo")
			steps[host] = append(steps[host], "ip route replace "+network+" via "+node.address, "ip route replace "+network6+" via "+node.address6)
		}
	}
	for host, lines := range steps {
		if err := Exec(ctx, l.Host(host), lines...); err != nil {
			return err
		}
	}
	return nil
}

// Exec runs commands on a host.
func Exec(ctx context.Context, h *lab.Host, lines ...string) error {
	for _, line := range lines {
		if _, err := h.Exec(ctx, strings.Fields(line)...); err != nil {
			return err
		}
	}
	return nil
}

// Forget flushes the conntrack tables, so that earlier turns have no influence.
func Forget(ctx context.Context, l *lab.Lab, family string) error {
	flush := "conntrack -F -f " + strings.ToLower(family)
	return errors.Join(Exec(ctx, l.Host(lab.Gateway), flush), Exec(ctx, l.Host(TrackedHost), flush))
}
