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
	"time"

	"github.com/smartnat/smartnat/scripts/bench/ways"
	"github.com/smartnat/smartnat/scripts/lab"
)

// handRunner loads lean rules with iptables-restore, and one chain of them when an endpoint moves. It shows the cost that
// remains if the program itself costs nothing.
type handRunner struct {
	*world
	ports int
	spent time.Duration
}

func (r *handRunner) prepare(ctx context.Context) error {
	return errors.Join(r.endRelay(), forward(ctx, r.Host(lab.Gateway)))
}

func (r *handRunner) start(ctx context.Context) error {
	return r.restore(ctx, r.ruleset(r.ports, r.watchedEndpoint(r.changes)))
}

func (r *handRunner) change(ctx context.Context) (time.Time, netip.Addr, error) {
	said, now := time.Now(), r.watchedEndpoint(r.changes+1)
	r.changes++
	return said, now, r.restore(ctx, r.ruleChange(r.ports, now), "--noflush")
}

func (r *handRunner) restore(ctx context.Context, text string, flags ...string) error {
	program := "iptables-restore"
	if r.Family == "IPv6" {
		program = "ip6tables-restore"
	}
	used, err := r.Host(lab.Gateway).ExecUsage(ctx, text, append([]string{program}, flags...)...)
	r.spent += used
	return err
}

func (r *handRunner) process() *lab.Process        { return nil }
func (r *handRunner) used() (time.Duration, error) { return r.spent, nil }
func (r *handRunner) pause() time.Duration         { return 50 * time.Millisecond }
func (r *handRunner) stop(context.Context) error   { return nil }

// fan is the number of branches or ports of each chain in the tree.
const fan = 8

// ruleset returns a tree over the ports with translations in its leaves, and a masquerade rule.
func (s scenery) ruleset(ports int, endpoint netip.Addr) string {
	var chains, rules strings.Builder
	for first := 0; first < ports; first += portsPerAddress {
		last := min(first+portsPerAddress, ports) - 1
		root := s.tree(&chains, &rules, first, last, endpoint)
		fmt.Fprintf(&rules, "-A PREROUTING -d %s -p tcp -j %s\n", s.external(first).Addr(), root)
	}
	return "*nat\n:PREROUTING ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n" + chains.String() + rules.String() +
		"-A POSTROUTING -o eth0 -j MASQUERADE --random-fully\nCOMMIT\n"
}

// tree writes the chains for a range of ports and returns the name of the root.
func (s scenery) tree(chains, rules *strings.Builder, first, last int, endpoint netip.Addr) string {
	name := fmt.Sprintf("B-%d-%d", first, last)
	fmt.Fprintf(chains, ":%s - [0:0]\n", name)
	if last-first < fan {
		s.leaf(rules, name, first, last, endpoint)
		return name
	}
	width := fan
	for width*fan < last-first+1 {
		width *= fan
	}
	var own strings.Builder
	for ; first <= last; first += width {
		end := min(first+width-1, last)
		branch := s.tree(chains, rules, first, end, endpoint)
		fmt.Fprintf(&own, "-A %s -p tcp -m tcp --dport %d:%d -j %s\n", name, s.external(first).Port(), s.external(end).Port(), branch)
	}
	rules.WriteString(own.String())
	return name
}

func (s scenery) leaf(rules *strings.Builder, name string, first, last int, endpoint netip.Addr) {
	for p := first; p <= last; p++ {
		object, k := p/ways.PortsPerMapping, p%ways.PortsPerMapping
		addresses, target := s.endpoints(object)
		if object == watched {
			addresses = []netip.Addr{endpoint}
		}
		for i, address := range slices.Backward(addresses) {
			chance := ""
			if i > 0 {
				chance = fmt.Sprintf(" -m statistic --mode random --probability %.5f", 1/float64(i+1))
			}
			fmt.Fprintf(rules, "-A %s -p tcp -m tcp --dport %d%s -j DNAT --to-destination %s\n", name, s.external(p).Port(), chance,
				netip.AddrPortFrom(address, uint16(target+s.target(k))))
		}
	}
}

// ruleChange returns the one or two leaves with the watched object's ports.
func (s scenery) ruleChange(ports int, endpoint netip.Addr) string {
	var chains, rules strings.Builder
	for first := watched * ways.PortsPerMapping / fan * fan; first < min((watched+1)*ways.PortsPerMapping, ports); first += fan {
		s.tree(&chains, &rules, first, min(first+fan, ports)-1, endpoint)
	}
	return "*nat\n" + chains.String() + rules.String() + "COMMIT\n"
}
