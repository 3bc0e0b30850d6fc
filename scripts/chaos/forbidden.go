// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/smartnat/smartnat/scripts/lab"
)

// forbidden sends traffic that must not pass: packets of a source that is not allowed, to a Mapping's port without other traffic,
// and packets of a neighbour of the gateway to inside addresses. The nodes count those that arrive.
func (ld *loads) forbidden(w *world) error {
	var errs []error
	rogue := w.Host(lab.Rogue)
	for i, network := range []string{lab.PodNetwork, lab.PodNetwork6, lab.ServiceNetwork, lab.ServiceNetwork6} {
		_, err := rogue.Exec(ld.ctx, "ip", "route", "replace", network, "via", []string{lab.External1, lab.External1v6}[i%2])
		errs = append(errs, err)
	}
	stranger := []string{lab.Client2Address, lab.Client2Address6}
	neighbours := [][]string{{"198.51.100.66", lab.ClientAddress, lab.Node2Address}, {"2001:db8:1::66", lab.ClientAddress6, lab.Node2Address6}}
	addresses := join(guardedPort)
	ld.repeat(every, func(n int) {
		to := netip.MustParseAddrPort(addresses[n%len(addresses)])
		ld.send(w.Host(lab.Client2), stranger[family(to)], to, n)
	})
	inside := slices.Concat(w.pods, w.services)
	ld.repeat(every, func(n int) {
		to := netip.MustParseAddrPort(lab.Join(inside[n%len(inside)], insidePort))
		from := neighbours[family(to)]
		ld.send(rogue, from[n/len(inside)%len(from)], to, n)
	})
	return errors.Join(errs...)
}

// family returns 0 for IPv4 and 1 for IPv6.
func family(to netip.AddrPort) int {
	if to.Addr().Is6() {
		return 1
	}
	return 0
}

// send sends a datagram, a first segment and a stray one. It ignores errors: some cannot be sent while a link is down.
func (ld *loads) send(host *lab.Host, source string, to netip.AddrPort, n int) {
	from := netip.MustParseAddrPort(lab.Join(source, uint16(20000+n%20000)))
	_ = host.SendUDP(from, to, "x")
	_ = host.SendTCP(from, to, lab.SYN, 1, 0)
	_ = host.SendTCP(from, to, lab.ACK, 7, 7)
}

// countAtNodes makes the nodes count packets to the ports that only forbidden traffic uses. They do not count answers of pods:
// kube-proxy may masquerade those by any port, even one of these. One allowed datagram by each address, and one from the inside,
// prove that the counters work.
func (w *world) countAtNodes(ctx context.Context) error {
	for _, node := range []string{lab.Node1, lab.Node2} {
		for _, program := range []string{"iptables", "ip6tables"} {
			for _, protocol := range []string{"tcp", "udp"} {
				ports := fmt.Sprintf("%d,%d", guardedPort, insidePort)
				if _, err := w.Host(node).Exec(ctx, program, "-t", "raw", "-A", "PREROUTING", "-i", "eth0", "-p", protocol,
					"!", "--sport", "8080", "-m", "multiport", "--dports", ports, "-m", "comment", "--comment", "forbidden"); err != nil {
					return err
				}
			}
		}
	}
	want := 0
	for i, pod := range w.pods {
		from := []string{lab.ControlAddress, lab.ControlAddress6}[i]
		if err := w.Host(lab.Control).SendUDP(netip.MustParseAddrPort(lab.Join(from, 40000)), netip.MustParseAddrPort(lab.Join(pod, insidePort)), "x"); err != nil {
			return err
		}
		want++
	}
	for _, address := range join(guardedPort) {
		conn, err := w.Host(lab.Client).Dial(ctx, "udp", address, 0)
		if err != nil {
			return err
		}
		_, err = fmt.Fprint(conn, "x")
		if err := errors.Join(err, conn.Close()); err != nil {
			return err
		}
		want++
	}
	return lab.Poll(ctx, func(ctx context.Context) error {
		n, err := w.arrived(ctx)
		if err == nil && n < want {
			err = fmt.Errorf("the nodes counted %d of %d allowed packets, so they would miss forbidden ones too", n, want)
		}
		return err
	})
}

// arrived returns how many packets the nodes have counted.
func (w *world) arrived(ctx context.Context) (int, error) {
	total := 0
	for _, node := range []string{lab.Node1, lab.Node2} {
		for _, program := range []string{"iptables", "ip6tables"} {
			out, err := w.Host(node).Exec(ctx, program, "-t", "raw", "-L", "PREROUTING", "-vnx")
			if err != nil {
				return 0, err
			}
			rules := 0
			for line := range strings.Lines(out) {
				var n int
				if !strings.Contains(line, "/* forbidden */") {
					continue
				}
				if _, err := fmt.Sscanf(strings.TrimSpace(line), "%d", &n); err != nil {
					return 0, fmt.Errorf("%s's counters: %q: %w", node, line, err)
				}
				total += n
				rules++
			}
			if rules != 2 {
				return 0, fmt.Errorf("%s has %d counting rules, want 2", node, rules)
			}
		}
	}
	return total, nil
}
