// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package conntrack

import (
	gocmp "cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/smartnat/smartnat/pkg/gateway"
)

// TestKernelSourcePorts counts the masqueraded connections of the kernel's table by backend.
func TestKernelSourcePorts(t *testing.T) {
	tb, own := newTable(t), gateway.DefaultOwnership()
	if got, err := SourcePorts(own, nil); err != nil || len(got) != 0 {
		t.Errorf("an empty table: %v, %v", got, err)
	}
	masqueraded := own.Forwarded().Value | own.Masquerade().Value
	port := uint16(1024)
	add := func(n int, protocol gateway.Protocol, backend, hidden string, mark uint32) {
		for range n {
			port++
			client, external := "192.0.2.1", "198.51.100.10"
			if strings.Contains(backend, "[") {
				client, external = "2001:db8:c::1", "2001:db8:1::10"
			}
			at := func(a string) netip.AddrPort { return netip.AddrPortFrom(netip.MustParseAddr(a), port) }
			f := flow{protocol: protocol, source: at(client), destination: netip.AddrPortFrom(netip.MustParseAddr(external), 80)}
			f.answeredBy, f.answeredTo = netip.MustParseAddrPort(backend), at(hidden)
			tb.add(f, mark, answered, 0)
		}
	}
	add(3, gateway.UDP, "10.244.1.2:53", "10.10.0.2", masqueraded)
	add(2, gateway.UDP, "10.244.1.2:53", "10.10.0.3", masqueraded) // another address has its own ports
	add(1, gateway.UDP, "10.244.1.2:54", "10.10.0.2", masqueraded|own.Uplink(3).Value|1<<20)
	add(4, gateway.TCP, "10.244.1.2:53", "10.10.0.2", masqueraded)
	add(5, gateway.UDP, "[fd00:244:1::2]:53", "fd00:10::2", masqueraded)
	add(6, gateway.UDP, "10.244.1.9:53", "10.10.0.2", own.Forwarded().Value) // the client's own address and port
	add(7, gateway.UDP, "10.244.1.9:53", "10.10.0.2", 0)
	got, err := SourcePorts(own, nil)
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(got, func(a, b gateway.SourcePorts) int { return gocmp.Compare(a.InUse, b.InUse) })
	if diff := cmp.Diff([]gateway.SourcePorts{
		// The one shared address with the most connections does not matter, nor do connections that are older than the addresses.
		{Protocol: gateway.UDP, Backend: netip.MustParseAddrPort("10.244.3.2:53"), InUse: 1 + 2, Addresses: 3},
		{Protocol: gateway.UDP, Backend: netip.MustParseAddrPort("[fd00:244:3::2]:53"), InUse: 4, Addresses: 1},
		{Protocol: gateway.UDP, Backend: netip.MustParseAddrPort("10.244.3.3:53"), InUse: 5, Addresses: 1}, // by a link without any
	}, countShared(t, own, add), cmpopts.EquateComparable(netip.AddrPort{})); diff != "" {
		t.Errorf("shared addresses (-want +got):\n%s", diff)
	}
	var want []gateway.SourcePorts
	for _, w := range []struct {
		n        int
		protocol gateway.Protocol
		backend  string
	}{{1, gateway.UDP, "10.244.1.2:54"}, {3, gateway.UDP, "10.244.1.2:53"}, {4, gateway.TCP, "10.244.1.2:53"}, {5, gateway.UDP, "[fd00:244:1::2]:53"}} {
		want = append(want, gateway.SourcePorts{Protocol: w.protocol, Backend: netip.MustParseAddrPort(w.backend), InUse: w.n, Addresses: 1})
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.AddrPort{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// countShared adds connections to backends in networks of their own, and returns the counts for these, by the number of connections.
func countShared(t *testing.T, own gateway.Ownership, add func(n int, protocol gateway.Protocol, backend, hidden string, mark uint32)) []gateway.SourcePorts {
	t.Helper()
	masqueraded := own.Forwarded().Value | own.Masquerade().Value
	add(1, gateway.UDP, "10.244.3.2:53", "10.10.0.100", masqueraded)
	add(2, gateway.UDP, "10.244.3.2:53", "10.10.0.101", masqueraded)
	add(9, gateway.UDP, "10.244.3.2:53", "10.10.0.2", masqueraded)
	add(4, gateway.UDP, "[fd00:244:3::2]:53", "fd00:10::100", masqueraded)
	add(5, gateway.UDP, "10.244.3.3:53", "10.20.0.2", masqueraded)
	got, err := SourcePorts(own, []gateway.LinkAddresses{
		{Link: "eth0", Addresses: []netip.Addr{
			netip.MustParseAddr("10.10.0.100"), netip.MustParseAddr("10.10.0.101"), netip.MustParseAddr("10.10.0.102"), netip.MustParseAddr("fd00:10::100"),
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	networks := []netip.Prefix{netip.MustParsePrefix("10.244.3.0/24"), netip.MustParsePrefix("fd00:244:3::/64")}
	got = slices.DeleteFunc(got, func(s gateway.SourcePorts) bool {
		return !slices.ContainsFunc(networks, func(n netip.Prefix) bool { return n.Contains(s.Backend.Addr()) })
	})
	slices.SortFunc(got, func(a, b gateway.SourcePorts) int { return gocmp.Compare(a.InUse, b.InUse) })
	return got
}

// FuzzReplies parses arbitrary messages. An invalid message must cause an error and not a panic.
func FuzzReplies(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte("\x02\x00\x00\x00\x08\x00\x08\x00\x00\x00\x00\x30"))
	f.Add([]byte("\x02\x00\x00\x00\x24\x00\x02\x80\x14\x00\x01\x80\x08\x00\x01\x00\x0a\xf4\x01\x02\x08\x00\x02\x00\x0a\x0a\x00\x02\x0c\x00\x02\x80\x05\x00\x01\x00\x11\x00\x00\x00"))
	f.Fuzz(func(_ *testing.T, message []byte) {
		var r replies
		_ = r.parse(message)
	})
}

// BenchmarkSourcePorts counts in tables of several sizes.
func BenchmarkSourcePorts(b *testing.B) {
	for _, n := range []int{1000, 20000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			tb, own := newTable(b), gateway.DefaultOwnership()
			for i := range n {
				client := netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, byte(i >> 8), byte(i)}), 5000)
				tb.add(flow{
					protocol: gateway.UDP, source: client, destination: netip.MustParseAddrPort("198.51.100.10:53"),
					answeredBy: netip.MustParseAddrPort("10.244.1.2:53"), answeredTo: netip.AddrPortFrom(netip.MustParseAddr("10.10.0.2"), uint16(1024+i)),
				}, own.Forwarded().Value|own.Masquerade().Value, answered, 0)
			}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := SourcePorts(own, nil); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
