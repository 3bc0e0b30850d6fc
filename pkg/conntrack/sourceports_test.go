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
	if got, err := SourcePorts(own); err != nil || len(got) != 0 {
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
	got, err := SourcePorts(own)
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(got, func(a, b gateway.SourcePorts) int { return gocmp.Compare(a.InUse, b.InUse) })
	var want []gateway.SourcePorts
	for _, w := range []struct {
		n        int
		protocol gateway.Protocol
		backend  string
	}{{1, gateway.UDP, "10.244.1.2:54"}, {3, gateway.UDP, "10.244.1.2:53"}, {4, gateway.TCP, "10.244.1.2:53"}, {5, gateway.UDP, "[fd00:244:1::2]:53"}} {
		want = append(want, gateway.SourcePorts{Protocol: w.protocol, Backend: netip.MustParseAddrPort(w.backend), InUse: w.n})
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.AddrPort{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
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
				if _, err := SourcePorts(own); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
