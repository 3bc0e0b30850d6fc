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

// handFaults are others' hands in the gateway's kernel. New connections may miss what was taken until it is back;
// established ones must outlive it.
func handFaults() []fault {
	return []fault{
		{name: "nat flushed", counted: true, promise: untilRepaired, quick: true, inject: flushTable("nat")},
		{name: "mangle flushed", counted: true, promise: untilRepaired, quick: true, inject: flushTable("mangle")},
		{name: "filter flushed", counted: true, promise: untilRepaired, opens: true, quick: true, inject: flushTable("filter")},
		// With the last rule that asks for connections the kernel stops tracking them, and translating.
		{name: "everything flushed", counted: true, promise: mayEnd, opens: true, inject: flushAll},
		{name: "nft flush ruleset", counted: true, promise: mayEnd, opens: true, backend: "nft", inject: hand("nft flush ruleset")},
		{name: "another's rule above ours", promise: unnoticed, inject: insertRule},
		{name: "ip rules flushed", counted: true, promise: untilRepaired, quick: true, inject: flushRules},
		{name: "uplink's routes flushed", counted: true, promise: untilRepaired, quick: true, inject: flushRoutes},
		{name: "forwarding turned off", counted: true, promise: untilRepaired, quick: true, inject: stopForwarding},
		{name: "rp_filter made strict", counted: true, promise: untilRepaired, inject: strictFilter},
	}
}

// on runs command lines of a shell on the gateway.
func (w *world) on(ctx context.Context, lines string) error {
	_, err := w.Host(lab.Gateway).Exec(ctx, "sh", "-ec", lines)
	return err
}

// hand is a fault that command lines on the gateway are.
func hand(lines string) func(context.Context, *world, step) (injury, error) {
	return func(ctx context.Context, w *world, _ step) (injury, error) {
		return injury{variant: lines}, w.on(ctx, lines)
	}
}

// Variants of the two families.
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

// flushAll is what the firewalls of distributions do when they start. A chain that smartnatd has filled again cannot be deleted.
func flushAll(ctx context.Context, w *world, _ step) (injury, error) {
	return injury{variant: "-F and -X, all tables"}, w.on(ctx, `for program in iptables ip6tables; do
		for table in nat mangle filter; do $program -w 5 -t $table -F; done
		for table in nat mangle filter; do $program -w 5 -t $table -X || true; done
	done`)
}

// insertRule puts a rule above our jump, as other programs do with theirs, and takes it back later.
func insertRule(ctx context.Context, w *world, s step) (injury, error) {
	chain := []string{"-t filter %s FORWARD", "-t nat %s PREROUTING", "-t mangle %s PREROUTING"}[s.Pick/2%3]
	line := xtables[s.Pick%2] + " -w 5 " + chain + " -p udp --dport 53 -j ACCEPT"
	return injury{variant: fmt.Sprintf(line, "-I"), heal: func(ctx context.Context) error {
		return w.on(ctx, fmt.Sprintf(line, "-D"))
	}}, w.on(ctx, fmt.Sprintf(line, "-I"))
}

func flushRules(ctx context.Context, w *world, s step) (injury, error) {
	family := s.Pick % 2
	return injury{variant: families[family], scope: scope{family: families[family]}},
		w.on(ctx, fmt.Sprintf("ip %s rule flush protocol 83", options[family]))
}

func flushRoutes(ctx context.Context, w *world, s step) (injury, error) {
	family, link := s.Pick%2, s.Pick/2%2
	where := scope{family: families[family], link: []string{"eth1", "eth2"}[link]}
	return injury{variant: where.link + ", " + where.family, scope: where},
		w.on(ctx, fmt.Sprintf("ip %s route flush table %d", options[family], 7380+link))
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
