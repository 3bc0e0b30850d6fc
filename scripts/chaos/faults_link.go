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

// linkFaults returns faults of uplinks that go and come back. Traffic by the other uplink must not notice them, and TCP survives
// them: it sends lost segments again.
func linkFaults() []fault {
	return []fault{
		{name: "uplink down", missed: true, inject: uplinkDown},
		{name: "uplink's cable out", missed: true, inject: cableOut},
		{name: "addresses removed", missed: true, inject: removeAddresses},
		{name: "uplink's gateway changes", inject: changeGateway},
	}
}

// uplink is one of the two: the prefix of its addresses, which is also the address of its gateways, and the metrics of its default routes.
type uplink struct{ link, prefix4, prefix6, metric4, metric6 string }

func chosenUplink(s step) uplink {
	return []uplink{
		{"eth1", "198.51.100.1", "2001:db8:1::1", "", ""},
		{"eth2", "203.0.113.1", "2001:db8:2::1", " metric 1000", " metric 2000"},
	}[s.Pick%2]
}

// uplinkDown sets a link down: the kernel then removes its IPv6 addresses and all its routes, so healing adds them again.
func uplinkDown(_ context.Context, w *world, s step) (injury, error) {
	u := chosenUplink(s)
	gateway := w.Host(lab.Gateway)
	return injury{variant: u.link, scope: scope{link: u.link}, heal: func(ctx context.Context) error {
		lines := fmt.Sprintf("for i in 0 1 2 3 4; do ip address replace %s$i/64 dev %s nodad; done", u.prefix6, u.link)
		lines += fmt.Sprintf("; ip -4 route replace default via %s%s; ip -6 route replace default via %s%s", u.prefix4, u.metric4, u.prefix6, u.metric6)
		return errors.Join(gateway.SetLink(u.link, true), w.on(ctx, lines))
	}}, gateway.SetLink(u.link, false)
}

func cableOut(_ context.Context, w *world, s step) (injury, error) {
	u := chosenUplink(s)
	return injury{variant: u.link, scope: scope{link: u.link}, heal: func(context.Context) error {
		return w.SetCable(lab.Gateway, u.link, true)
	}}, w.SetCable(lab.Gateway, u.link, false)
}

// removeAddresses removes the addresses of an uplink and a family, and adds them again later.
func removeAddresses(ctx context.Context, w *world, s step) (injury, error) {
	family := s.Pick / 2 % 2
	u := chosenUplink(s)
	prefix, length := []string{u.prefix4, u.prefix6}[family], []string{"/24", "/64 nodad"}[family]
	where := scope{link: u.link, family: families[family]}
	lines := fmt.Sprintf("for i in 0 1 2 3 4; do ip address add %s$i%s dev %s; done", prefix, length, u.link)
	lines += fmt.Sprintf("; ip %s route replace default via %s%s", options[family], prefix, []string{u.metric4, u.metric6}[family])
	return injury{variant: u.link + ", " + where.family, scope: where, heal: func(ctx context.Context) error { return w.on(ctx, lines) }},
		w.on(ctx, fmt.Sprintf("ip %s address flush dev %s scope global", options[family], u.link))
}

// changeGateway makes the default routes of the first uplink, from which smartnatd takes its gateway, lead to another address of the
// router. New and old connections must work over both.
func changeGateway(ctx context.Context, w *world, s step) (injury, error) {
	family := s.Pick % 2
	old, other, length := []string{"198.51.100.1", "2001:db8:1::1"}[family], []string{"198.51.100.254", "2001:db8:1::254"}[family], []string{"/24", "/64"}[family]
	lead := func(ctx context.Context, via string) error {
		return w.on(ctx, fmt.Sprintf("ip %s route replace default via %s", options[family], via))
	}
	_, err := w.Host(lab.Router).Exec(ctx, "ip", "address", "replace", other+length, "dev", "eth1")
	return injury{variant: families[family], heal: func(ctx context.Context) error {
		if s.Second == nil { // A fault that still lasts may keep smartnatd from following.
			if err := poll(ctx, func(ctx context.Context) error {
				return w.on(ctx, fmt.Sprintf("ip %s route show table 7380 | grep 'default via %s dev eth1'", options[family], other))
			}); err != nil {
				return err
			}
		}
		return lead(ctx, old)
	}}, errors.Join(err, lead(ctx, other))
}
