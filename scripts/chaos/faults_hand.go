// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/smartnat/smartnat/scripts/lab"
)

// handFaults returns modifications of the gateway's kernel by other programs. New connections may fail until the repair;
// established ones must survive.
func handFaults() []fault {
	return []fault{
		{name: "nat flushed", dataplane: planeIPTables, counted: true, missed: true, quick: true, inject: flushTable("nat")},
		{name: "mangle flushed", dataplane: planeIPTables, counted: true, missed: true, quick: true, inject: flushTable("mangle")},
		{name: "filter flushed", dataplane: planeIPTables, counted: true, missed: true, opens: true, quick: true, inject: flushTable("filter")},
		// With the last rule that asks for connection tracking gone, the kernel stops tracking and translating, except for the table that
		// smartnatd, and systemd between two of its processes, holds.
		{name: "everything flushed", dataplane: planeIPTables, counted: true, missed: true, opens: true, inject: flushAll},
		{name: "nft flush ruleset", dataplane: planeIPTables, counted: true, missed: true, opens: true, iptables: "nf_tables", inject: hand("nft flush ruleset")},
		{name: "firewalld comes and goes", dataplane: planeIPTables, counted: true, missed: true, opens: true, iptables: "nf_tables", inject: runFirewalld},
		// No other process can change tables that smartnatd owns (Linux 6.9).
		{name: "nft against our tables", dataplane: planeNFTables, quick: true, inject: attackTables},
		{name: "firewalld with nftables", dataplane: planeNFTables, missed: true, iptables: "nf_tables", inject: runFirewalld},
		{name: "another's rule above ours", dataplane: planeIPTables, inject: insertRule},
		{name: "xtables lock held", dataplane: planeIPTables, changes: true, inject: holdLock},
		{name: "ip rules flushed", counted: true, missed: true, quick: true, inject: flushRules},
		{name: "uplink's routes flushed", counted: true, missed: true, quick: true, inject: flushRoutes},
		{name: "uplink's routes misled", counted: true, missed: true, quick: true, inject: misleadRoutes},
		{name: "sets flushed", dataplane: planeIPTables, counted: true, missed: true, quick: true, inject: hand("ipset flush")},
		{name: "forwarding turned off", counted: true, missed: true, quick: true, inject: stopForwarding},
		{name: "rp_filter made strict", counted: true, missed: true, inject: strictFilter},
	}
}

// on runs shell commands on the gateway.
func (w *world) on(ctx context.Context, lines string) error {
	_, err := w.Host(lab.Gateway).Exec(ctx, "sh", "-ec", lines)
	return err
}

// hand returns a fault that runs shell commands on the gateway.
func hand(lines string) func(context.Context, *world, step) (injury, error) {
	return func(ctx context.Context, w *world, _ step) (injury, error) {
		return injury{variant: lines}, w.on(ctx, lines)
	}
}

// The two families, as faults name them.
var (
	families = []string{"IPv4", "IPv6"}
	xtables  = []string{"iptables", "ip6tables"}
	options  = []string{"-4", "-6"}
)

func flushTable(table string) func(context.Context, *world, step) (injury, error) {
	return func(ctx context.Context, w *world, s step) (injury, error) {
		family := s.Pick % 2
		return injury{variant: families[family], scope: scope{family: families[family]}},
			w.on(ctx, fmt.Sprintf("%s -w 5 -t %s -F", xtables[family], table))
	}
}

// flushAll does what the firewalls of distributions do when they start. A chain that smartnatd has filled again cannot be deleted.
func flushAll(ctx context.Context, w *world, _ step) (injury, error) {
	return injury{variant: "-F and -X, all tables"}, w.on(ctx, `for program in iptables ip6tables; do
		for table in nat mangle filter; do $program -w 5 -t $table -F; done
		for table in nat mangle filter; do $program -w 5 -t $table -X || true; done
	done`)
}

// runFirewalld starts firewalld, reloads it and stops it later. It flushes the tables of iptables each time. Its reverse path
// filter for IPv6 is off, since it ignores policy routing and would drop replies.
func runFirewalld(ctx context.Context, w *world, _ step) (injury, error) {
	ctx, cancel := context.WithTimeout(ctx, settlement)
	defer cancel()
	gateway := w.Host(lab.Gateway)
	if err := w.on(ctx, "sed -i s/^IPv6_rpfilter=.*/IPv6_rpfilter=no/ /etc/firewalld/firewalld.conf; mkdir -p /run/dbus /run/firewalld"); err != nil {
		return injury{}, err
	}
	bus, err := gateway.Start("dbus", nil, "dbus-daemon", "--system", "--nofork", "--nopidfile")
	if err != nil {
		return injury{}, err
	}
	firewalld, err := gateway.Start("firewalld", nil, "firewalld", "--nofork", "--nopid")
	if err != nil {
		return injury{}, err
	}
	err = lab.Poll(ctx, func(ctx context.Context) error { return w.on(ctx, "firewall-cmd --state") })
	if err == nil {
		err = w.on(ctx, "firewall-cmd --reload")
	}
	return injury{variant: "starts, is reloaded, and ends", heal: func(ctx context.Context) error {
		return errors.Join(firewalld.Stop(ctx), bus.Kill())
	}}, err
}

// attackTables changes and removes SmartNat's tables of nf_tables, as far as the kernel permits that.
func attackTables(ctx context.Context, w *world, s step) (injury, error) {
	line := []string{
		"nft flush ruleset", "nft delete table ip smartnat || true", "nft flush chain ip6 smartnat prerouting-nat || true",
		"nft insert rule ip smartnat forward drop || true", "nft flush map ip6 smartnat frontends || true",
	}[s.Pick%5]
	return injury{variant: line}, w.on(ctx, line)
}

// insertRule inserts a rule above SmartNat's jump, as other programs do, and removes it later.
func insertRule(ctx context.Context, w *world, s step) (injury, error) {
	chain := []string{"-t filter %s FORWARD", "-t nat %s PREROUTING", "-t mangle %s PREROUTING"}[s.Pick/2%3]
	line := xtables[s.Pick%2] + " -w 5 " + chain + " -p udp --dport 53 -j ACCEPT"
	return injury{variant: fmt.Sprintf(line, "-I"), heal: func(ctx context.Context) error {
		return w.on(ctx, fmt.Sprintf(line, "-D"))
	}}, w.on(ctx, fmt.Sprintf(line, "-I"))
}

// holdLock runs a program that holds the lock of the iptables programs.
func holdLock(_ context.Context, w *world, _ step) (injury, error) {
	holder, err := w.Host(lab.Gateway).Start("flock", nil, "flock", "/run/xtables.lock", "sleep", "1000")
	if err != nil {
		return injury{}, err
	}
	return injury{variant: "flock", heal: func(context.Context) error { return holder.Kill() }}, nil
}

func flushRules(ctx context.Context, w *world, s step) (injury, error) {
	family := s.Pick % 2
	return injury{variant: families[family], scope: scope{family: families[family]}},
		w.on(ctx, fmt.Sprintf("ip %s rule flush protocol 83", options[family]))
}

func flushRoutes(ctx context.Context, w *world, s step) (injury, error) {
	family, link := s.Pick%2, s.Pick/2%2
	where := scope{family: families[family], link: []string{"eth1", "eth2"}[link]}
	// If the uplink is already down, the table does not exist.
	return injury{variant: where.link + ", " + where.family, scope: where},
		w.on(ctx, fmt.Sprintf("ip %s route flush table %d || true", options[family], 7380+link))
}

// misleadRoutes makes an uplink's table lead to a gateway that does not exist.
func misleadRoutes(ctx context.Context, w *world, s step) (injury, error) {
	family, u := s.Pick/2%2, chosenUplink(s)
	where := scope{family: families[family], link: u.link}
	return injury{variant: u.link + ", " + where.family, scope: where}, w.on(ctx, fmt.Sprintf("ip %s route replace default via %s99 dev %s table %d proto 83 || true",
		options[family], []string{u.prefix4, u.prefix6}[family], u.link, 7380+s.Pick%2))
}

func stopForwarding(_ context.Context, w *world, s step) (injury, error) {
	family := s.Pick % 2
	key := []string{"net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"}[family]
	return injury{variant: families[family], scope: scope{family: families[family]}}, w.Host(lab.Gateway).SetSysctl(key, "0")
}

func strictFilter(_ context.Context, w *world, _ step) (injury, error) {
	gateway := w.Host(lab.Gateway)
	return injury{variant: "eth2 and all", scope: scope{family: "IPv4"}},
		errors.Join(gateway.SetSysctl("net.ipv4.conf.eth2.rp_filter", "1"), gateway.SetSysctl("net.ipv4.conf.all.rp_filter", "1"))
}
