// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/smartnat/smartnat/scripts/lab"
)

// testBoundary checks that packets of a neighbour to the gateway's MAC reach nothing inside, with any source address.
func testBoundary(t *testing.T, w *world) {
	w.namespace(t, "boundary", 1)
	// A host without an IPv6 Mapping forwards no IPv6 at all.
	w.mapping(t, "boundary", `addresses: [198.51.100.10, "2001:db8:1::10"], serviceName: echo, ports: [{port: 1700, servicePort: 8080}]`)
	w.await(t, lab.Client, "tcp", lab.Join(lab.External1, 1700), nil)
	w.await(t, lab.Client, "tcp", lab.Join(lab.External1v6, 1700), nil)
	ctx := timeout(t, time.Minute)
	services, err := w.Kubectl(ctx, "get", "service", "echo", "-n", "boundary", "-o", "jsonpath={.spec.clusterIPs[0]} {.spec.clusterIPs[1]}")
	if err != nil {
		t.Fatal(err)
	}
	service4, service6, _ := strings.Cut(services, " ")
	for _, family := range []struct {
		name                   string
		ipv6                   bool
		pod, service, external string
		networks, sources      []string
	}{
		{
			"IPv4", false, w.podAddress(t, "boundary", "echo-0"), service4, lab.External1,
			[]string{lab.PodNetwork, lab.ServiceNetwork},
			[]string{"198.51.100.66", lab.ClientAddress, lab.ControlAddress, lab.Node2Address, "10.244.2.99"},
		},
		{
			"IPv6", true, w.podAddress6(t, "boundary", "echo-0"), service6, lab.External1v6,
			[]string{lab.PodNetwork6, lab.ServiceNetwork6},
			[]string{"2001:db8:1::66", lab.ClientAddress6, lab.ControlAddress6, lab.Node2Address6, "fd00:244:2::99"},
		},
	} {
		t.Run(family.name, func(t *testing.T) {
			for _, network := range family.networks {
				if out, err := w.Host(lab.Rogue).Exec(ctx, "ip", "route", "replace", network, "via", family.external); err != nil {
					t.Fatal(out, err)
				}
			}
			w.await(t, lab.Control, "tcp", lab.Join(family.pod, 8080), nil) // without the boundary, the path is open
			w.expectSilence(t, lab.Rogue, "tcp", lab.Join(family.pod, 8080))
			w.expectSilence(t, lab.Rogue, "udp", lab.Join(family.service, 8080))
			w.expectNothingInside(t, family.ipv6, 8080, len(family.sources)*2*3, func() error {
				return w.floodFrom(family.sources, family.pod, family.service)
			})
		})
	}
	t.Run("source routes", func(t *testing.T) {
		// By default the kernel refuses source routes; the boundary must hold even if a sysctl allows them.
		const key = "net.ipv4.conf.all.accept_source_route"
		gateway := w.Host(lab.Gateway)
		before, err := gateway.Sysctl(key)
		if err := errors.Join(err, gateway.SetSysctl(key, "1")); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = gateway.SetSysctl(key, before) }()
		const port = 9999 // no Mapping has it
		w.expectNothingInside(t, false, port, 1, func() error { return w.sendSourceRouted(w.podAddress(t, "boundary", "echo-0"), port) })
	})
}

// floodFrom makes the neighbour send datagrams, first segments and stray ones to each target from each source.
func (w *world) floodFrom(sources []string, targets ...string) error {
	rogue := w.Host(lab.Rogue)
	var errs []error
	for _, source := range sources {
		for _, target := range targets {
			from, to := netip.MustParseAddrPort(lab.Join(source, 40000)), netip.MustParseAddrPort(lab.Join(target, 8080))
			errs = append(errs, rogue.SendUDP(from, to, "x"), rogue.SendTCP(from, to, lab.SYN, 1, 0), rogue.SendTCP(from, to, lab.ACK, 7, 7))
		}
	}
	return errors.Join(errs...)
}

// sendSourceRouted sends a datagram to the gateway with a source route on to a pod (RFC 791, loose source route).
func (w *world) sendSourceRouted(pod string, port int) error {
	hop, to := netip.MustParseAddr(lab.External1).As4(), netip.MustParseAddr(pod).As4()
	option := append([]byte{131, 7, 4}, hop[:]...)
	return w.Host(lab.Rogue).Do(func() error {
		socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		return errors.Join(unix.SetsockoptString(socket, unix.IPPROTO_IP, unix.IP_OPTIONS, string(append(option, 0))),
			unix.Sendto(socket, []byte("x"), 0, &unix.SockaddrInet4{Port: port, Addr: to}), unix.Close(socket))
	})
}

// expectNothingInside runs send on the neighbour, and checks that the boundary drops at least want packets and that no packet to the
// port gets inside.
func (w *world) expectNothingInside(t *testing.T, ipv6 bool, port uint16, want int, send func() error) {
	t.Helper()
	capture := w.capture(t, "eth0")
	ctx := timeout(t, patience)
	dropped := w.boundaryDrops(ctx, t, ipv6)
	if err := send(); err != nil {
		t.Fatal(err)
	}
	if err := lab.Poll(ctx, func(ctx context.Context) error {
		if n := w.boundaryDrops(ctx, t, ipv6) - dropped; n < want {
			return fmt.Errorf("the boundary dropped %d packets, want %d", n, want)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	if p := findPacket(t, capture, func(p lab.Packet) bool { return p.Out && p.Destination.Port() == port }); p != nil {
		t.Errorf("a packet got inside: %v", p)
	}
}

func (w *world) boundaryDrops(ctx context.Context, t *testing.T, ipv6 bool) int {
	t.Helper()
	n, err := w.plane.dropped(ctx, w.Host(lab.Gateway), ipv6)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
