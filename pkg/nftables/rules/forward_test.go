// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/gateway/gatewaytest"
)

// TestBlocks expects as few parts of a range as the kernel can shift.
func TestBlocks(t *testing.T) {
	for _, tc := range []struct {
		name        string
		first, last uint16
		to          uint16
		shift       bool
		want        string
	}{
		{"to one port", 100, 110, 80, false, "100-110"},
		{"to the same ports", 100, 110, 100, true, "100-110 kept"},
		{"at a multiple of the length", 20000, 20999, 30000, true, "20000-20999 shifted"},
		{"at a multiple of a power of two", 4096, 8191, 1, true, "4096-8191 shifted"},
		{"elsewhere", 101, 110, 201, true, "101 shifted 102-103 shifted 104-107 shifted 108-109 shifted 110 shifted"},
		{"to the last port", 65534, 65535, 1, true, "65534-65535 shifted"},
		{"all ports to the last", 1, 65535, 1, true, "1-65535 kept"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := forward(gateway.IPv4, 1, gateway.TCP, tc.first, tc.last, backends(gateway.IPv4, 2, tc.to))
			f.Shift = tc.shift
			var got []string
			for _, b := range blocksOf(f) {
				text := b.ports.String()
				if b.keep {
					text += " kept"
				}
				if b.shift {
					text += " shifted"
				}
				got = append(got, text)
			}
			if diff := cmp.Diff(tc.want, strings.Join(got, " ")); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestNetworks expects ranges that neither overlap nor touch, which the kernel would refuse or nft(8) would join.
func TestNetworks(t *testing.T) {
	for _, tc := range []struct{ networks, want string }{
		{"10.0.0.0/8", "10.0.0.0-10.255.255.255"},
		{"10.0.0.0/8 10.1.0.0/16 11.0.0.0/8", "10.0.0.0-11.255.255.255"},
		{"10.0.0.0/32 10.0.0.2/32", "10.0.0.0-10.0.0.0 10.0.0.2-10.0.0.2"},
		{"0.0.0.0/0 192.0.2.0/24", "0.0.0.0-255.255.255.255"},
		{"128.0.0.0/1 255.255.255.255/32", "128.0.0.0-255.255.255.255"},
		{"2001:db8::/33 2001:db8:8000::/33", "2001:db8::-2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"},
		{"::/0", "::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"},
	} {
		var got []string
		for _, e := range networkElements(gatewaytest.Prefixes(strings.Fields(tc.networks)...)) {
			first, _ := netip.AddrFromSlice([]byte(e.Key))
			last, _ := netip.AddrFromSlice([]byte(e.Last))
			got = append(got, first.String()+"-"+last.String())
		}
		if diff := cmp.Diff(tc.want, strings.Join(got, " ")); diff != "" {
			t.Errorf("%s:\n%s", tc.networks, diff)
		}
	}
}

// TestOpenSources expects that a list with the network of all addresses costs no rule.
func TestOpenSources(t *testing.T) {
	open := forward(gateway.IPv6, 1, gateway.TCP, 80, 80, backends(gateway.IPv6, 1, 80))
	listed := gatewaytest.From(open, "::/0", "2001:db8::/32")
	if diff := cmp.Diff(Contribute(open, ownership, nil), Contribute(listed, ownership, nil)); diff != "" {
		t.Error(diff)
	}
}

// TestNumbers expects that endpoints have different numbers, far from those of random choice, even if their hashes collide.
func TestNumbers(t *testing.T) {
	taken := map[uint32]bool{}
	first := numberOf("default/echo 10.0.0.1", taken)
	second := numberOf("default/echo 10.0.0.1", taken)
	if first == second || first < 1<<31 || second < 1<<31 {
		t.Errorf("numbers %d and %d", first, second)
	}
}

// TestChangedBackend expects that a change of Backends, not of their number, changes elements of one map and no rule or verdict.
func TestChangedBackend(t *testing.T) {
	for _, family := range families {
		was := forward(family, 1, gateway.TCP, 80, 80, backends(family, 3, 80))
		is := with(was, func(f *gateway.Forward) { f.Backends = backends(family, 4, 80)[1:] })
		before, after := Contribute(was, ownership, nil), Contribute(is, ownership, nil)
		for i := range before.Elements {
			if e := before.Elements[i]; e != after.Elements[i] && (e.Set != backendsMap || e.Key != after.Elements[i].Key) {
				t.Errorf("IPv%d: an element of %s changes", family, e.Set)
			}
		}
		if diff := cmp.Diff(before.Units, after.Units); diff != "" || len(before.Elements) != len(after.Elements) {
			t.Errorf("IPv%d: %d elements after %d\n%s", family, len(after.Elements), len(before.Elements), diff)
		}
	}
}

// TestHelpers expects that only connections to the Mappings' ports of a helper get it.
func TestHelpers(t *testing.T) {
	for _, family := range families {
		state := host(family)
		for _, tc := range []struct {
			name     string
			to       int
			protocol gateway.Protocol
			port     uint16
			want     string
		}{
			{"a port", 1, gateway.TCP, 21, "ftp"},
			{"a range", 2, gateway.TCP, 21, "ftp"},
			{"another port of the range", 2, gateway.TCP, 22, ""},
			{"a port without backends", 3, gateway.TCP, 21, ""},
			{"another protocol", 1, gateway.UDP, 21, ""},
			{"another helper", 1, gateway.UDP, 69, "tftp"},
			{"another address", 9, gateway.TCP, 21, ""},
		} {
			got := ""
			for _, step := range tracer(state, family).Trace(firstPacket(family, client(family, 1), external(family, tc.to), tc.protocol, tc.port)).Steps {
				if _, after, ok := strings.Cut(step.Rule, "ct helper set "); ok {
					got += strings.Trim(after, `"`)
				}
			}
			if got != tc.want {
				t.Errorf("IPv%d, %s: helper %q, want %q", family, tc.name, got, tc.want)
			}
		}
	}
	if table := Build(gateway.State{Helpers: host(gateway.IPv4).Helpers}, gateway.IPv4, ownership); len(table.Helpers) > 0 {
		t.Errorf("without Forwards there are helpers: %v", table.Helpers)
	}
}
