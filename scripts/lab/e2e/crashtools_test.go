// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/smartnat/smartnat/scripts/lab"
)

// intruder keeps sending packets that must not get through and must not be answered.
type intruder struct {
	name     string
	host     *lab.Host
	from, to netip.AddrPort
	// arrivals captures the packets where they reach the gateway, successes where a packet that matches success proves a leak.
	arrivals, successes *lab.Capture
	success             func(lab.Packet) bool
	// arrived and succeeded count these packets.
	arrived, succeeded int
}

// startIntruders starts sources that no Mapping allows, and neighbours that send packets for pods to the gateway. The returned
// function stops them and reports leaks.
func startIntruders(ctx context.Context, t *testing.T, w *world) (stop func()) {
	t.Helper()
	const tries, unused = 20000, 9999 // the intruders' ports, and one without other traffic to pods
	var all []*intruder
	for _, family := range []struct{ name, source, closed, neighbour, pods, gateway, pod string }{
		{"IPv4", lab.Client2Address, "198.51.100.12", "198.51.100.66", lab.PodNetwork, lab.External1, w.podAddress(t, "crash", podName(0))},
		{"IPv6", lab.Client2Address6, "2001:db8:1::12", "2001:db8:1::66", lab.PodNetwork6, lab.External1v6, w.podAddress6(t, "crash", podName(0))},
	} {
		if out, err := w.Host(lab.Rogue).Exec(ctx, "ip", "route", "replace", family.pods, "via", family.gateway); err != nil {
			t.Fatal(out, err)
		}
		answers, err := w.Host(lab.Client2).Capture("eth0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = answers.Close() })
		closed := netip.AddrPortFrom(netip.MustParseAddr(family.closed), 991)
		inside := netip.AddrPortFrom(netip.MustParseAddr(family.pod), unused)
		all = append(all, &intruder{
			name: family.name + ", a source that is not allowed", host: w.Host(lab.Client2),
			from: netip.AddrPortFrom(netip.MustParseAddr(family.source), tries), to: closed,
			arrivals: w.capture(t, "eth1"), successes: answers,
			success: func(p lab.Packet) bool { return !p.Out && p.Source.Addr() == closed.Addr() },
		}, &intruder{
			name: family.name + ", a neighbour", host: w.Host(lab.Rogue),
			from: netip.AddrPortFrom(netip.MustParseAddr(family.neighbour), tries), to: inside,
			arrivals: w.capture(t, "eth1"), successes: w.capture(t, "eth0"),
			success: func(p lab.Packet) bool { return p.Out && p.Destination == inside },
		})
	}
	ctx, cancel := context.WithCancel(ctx)
	var group sync.WaitGroup
	t.Cleanup(func() { cancel(); group.Wait() })
	for _, i := range all {
		group.Go(func() {
			if err := i.run(ctx); err != nil {
				t.Errorf("%s: %v", i.name, err)
			}
		})
	}
	return func() {
		cancel()
		group.Wait()
		for _, i := range all {
			if i.arrived < 100 || i.succeeded > 0 {
				t.Errorf("%s: %d packets reached the gateway, %d got through or were answered", i.name, i.arrived, i.succeeded)
			}
			t.Logf("%s: %d packets reached the gateway", i.name, i.arrived)
		}
	}
}

// run sends and counts until ctx ends.
func (i *intruder) run(ctx context.Context) error {
	const often, ports = 2 * time.Millisecond, 10_000
	for n := uint16(0); ctx.Err() == nil; n = (n + 1) % ports {
		from := netip.AddrPortFrom(i.from.Addr(), i.from.Port()+n)
		err := errors.Join(i.host.SendUDP(from, i.to, "x"), i.host.SendTCP(from, i.to, lab.SYN, 1, 0),
			count(i.arrivals, &i.arrived, func(p lab.Packet) bool { return !p.Out && p.Source.Addr() == from.Addr() && p.Destination == i.to }),
			count(i.successes, &i.succeeded, i.success))
		if err != nil {
			return err
		}
		time.Sleep(often)
	}
	return nil
}

func count(c *lab.Capture, n *int, of func(lab.Packet) bool) error {
	packets, err := c.Packets()
	for _, p := range packets {
		if of(p) {
			*n++
		}
	}
	return err
}
