// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"math"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/packet"
)

// slotsOf returns the table of a Forward with these Backends.
func slotsOf(list []gateway.Backend) []gateway.Backend {
	f := forward(gateway.IPv4, 1, gateway.TCP, 80, 80, list)
	f.Consistent = true
	return (&contribution{f: f, family: gateway.IPv4}).slots()
}

// TestSlotsAreEven expects that the slots of two Backends differ by at most one.
func TestSlotsAreEven(t *testing.T) {
	for _, n := range []int{2, 3, 6, 7, 25, 26, 102, 103, 409, 410} {
		counts := map[gateway.Backend]int{}
		for _, b := range slotsOf(backends(gateway.IPv4, n, 80)) {
			counts[b]++
		}
		least, most := math.MaxInt, 0
		for _, c := range counts {
			least, most = min(least, c), max(most, c)
		}
		if len(counts) != n || most-least > 1 || least < 9 {
			t.Errorf("%d of %d Backends have %d to %d slots", len(counts), n, least, most)
		}
	}
}

// TestFewClientsMove counts the slots that lead elsewhere although their Backend stays. The counts are exact, so that each change of
// the table, which would move clients between gateways of two versions, is intended.
func TestFewClientsMove(t *testing.T) {
	for _, tc := range []struct{ backends, without, slots, moved int }{
		{3, 0, 61, 1}, {3, 1, 61, 1}, {5, 2, 61, 4}, {6, 5, 61, 7}, {20, 7, 251, 15}, {100, 50, 1021, 34},
	} {
		all := backends(gateway.IPv4, tc.backends, 80)
		gone := all[tc.without]
		before, after := slotsOf(all), slotsOf(slices.Delete(slices.Clone(all), tc.without, tc.without+1))
		moved := 0
		for i := range before {
			if before[i] != gone && before[i] != after[i] {
				moved++
			}
		}
		if len(before) != tc.slots || len(after) != tc.slots || moved != tc.moved {
			t.Errorf("%d Backends without number %d: %d of %d slots move, want %d of %d", tc.backends, tc.without, moved, len(after), tc.moved, tc.slots)
		}
	}
}

// TestTableSizes expects primes: another size would leave slots that an order never reaches.
func TestTableSizes(t *testing.T) {
	for _, n := range []int{2, 7, 26, 103, 410, 1639, 100000} {
		size := gateway.MaglevSlots(n)
		for d := 2; d*d <= size; d++ {
			if size%d == 0 {
				t.Errorf("%d slots for %d Backends: a multiple of %d", size, n, d)
			}
		}
	}
}

// TestConsistentAffinity expects that a client reaches the same pod by all ports and protocols of the Service, whatever its own port.
func TestConsistentAffinity(t *testing.T) {
	for _, family := range families {
		stays := func(f *gateway.Forward) { f.Consistent, f.Affinity = true, time.Hour }
		forwards := []*gateway.Forward{
			with(forward(family, 1, gateway.TCP, 80, 80, backends(family, 5, 8080)), stays),
			with(forward(family, 1, gateway.UDP, 443, 443, backends(family, 5, 8443)), stays),
			with(forward(family, 2, gateway.TCP, 5000, 5099, backends(family, 5, 6000)), stays),
			with(forward(family, 2, gateway.UDP, 5000, 5099, backends(family, 5, 6000)), func(f *gateway.Forward) { stays(f); f.Shift = true }),
		}
		tracer := tracer(stateOf(forwards...), family)
		reached := map[netip.Addr]bool{}
		for n := range 40 {
			pods := map[netip.Addr]bool{}
			for i, f := range forwards {
				p := firstPacket(family, client(family, n), f.Address, f.Protocol, f.Ports.First)
				p.Source = netip.AddrPortFrom(p.Source.Addr(), uint16(1024+1000*i+n))
				for trace := range tracer.Outcomes(p) {
					pods[trace.Packet.Destination.Addr()] = true
					reached[trace.Packet.Destination.Addr()] = true
				}
			}
			if len(pods) != 1 {
				t.Errorf("IPv%d: client %d reaches %d pods", family, n, len(pods))
			}
		}
		if len(reached) != 5 {
			t.Errorf("IPv%d: all clients together reach %d pods, want 5", family, len(reached))
		}
	}
}

// TestUnknownPort expects that a client whose port is unknown may reach all Backends, and with affinity only one.
func TestUnknownPort(t *testing.T) {
	f := with(forward(gateway.IPv6, 1, gateway.TCP, 80, 80, backends(gateway.IPv6, 3, 8080)), func(f *gateway.Forward) { f.Consistent = true })
	for affinity, want := range map[time.Duration]int{0: 3, time.Hour: 1} {
		f.Affinity = affinity
		p := firstPacket(gateway.IPv6, client(gateway.IPv6, 1), f.Address, f.Protocol, 80)
		p.Source = netip.AddrPortFrom(p.Source.Addr(), 0)
		reached, all := map[netip.AddrPort]bool{}, 0.0
		for trace := range tracer(stateOf(f), gateway.IPv6).Outcomes(p) {
			if trace.Verdict == packet.Accept {
				reached[trace.Packet.Destination] = true
				all += trace.Probability
			}
		}
		if len(reached) != want || math.Abs(all-1) > 1e-9 {
			t.Errorf("affinity %s: %d Backends with probability %f, want %d", affinity, len(reached), all, want)
		}
	}
}
