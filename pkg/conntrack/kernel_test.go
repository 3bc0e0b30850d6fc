// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package conntrack

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/ti-mo/conntrack"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// table is the kernel's table of connections in a namespace of the test's own.
type table struct {
	*conntrack.Conn
	t testing.TB
}

func newTable(t testing.TB) table {
	t.Helper()
	testenv.NewNetNS(t)
	conn, err := conntrack.Dial(nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return table{conn, t}
}

const (
	lifetime             = 300
	unanswered, answered = conntrack.Status(0), conntrack.StatusSeenReply | conntrack.StatusAssured
)

// add puts a connection into the table as the rules would have made it.
func (tb table) add(f flow, mark uint32, status conntrack.Status, zone uint16) {
	tb.t.Helper()
	number := uint8(1)
	for n, p := range protocols {
		if p == f.protocol {
			number = n
		}
	}
	flow := conntrack.NewFlow(number, status|conntrack.StatusConfirmed, f.source.Addr(), f.destination.Addr(), f.source.Port(), f.destination.Port(), lifetime, mark)
	flow.TupleReply.IP.SourceAddress, flow.TupleReply.Proto.SourcePort = f.answeredBy.Addr(), f.answeredBy.Port()
	flow.TupleReply.IP.DestinationAddress, flow.TupleReply.Proto.DestinationPort = f.answeredTo.Addr(), f.answeredTo.Port()
	flow.Zone = zone
	if number == 1 { // an echo request, and the reply to it
		flow.TupleOrig.Proto.ICMPType, flow.TupleOrig.Proto.ICMPID, flow.TupleReply.Proto.ICMPID = 8, 7, 7
	}
	if err := tb.Create(flow); err != nil {
		tb.t.Fatalf("creating %+v: %v", f, err)
	}
}

// flows are the connections in the table, as text.
func (tb table) flows() []string {
	tb.t.Helper()
	all, err := tb.Dump(nil)
	if err != nil {
		tb.t.Fatal(err)
	}
	lines := make([]string, 0, len(all))
	for _, f := range all {
		lines = append(lines, fmt.Sprintf("%v %v mark %#x zone %d", f.TupleOrig, f.TupleReply, f.Mark, f.Zone))
	}
	slices.Sort(lines)
	return lines
}

// cut cuts, and checks that what went is as much as was said.
func (tb table) cut(state gateway.State, want int) {
	tb.t.Helper()
	before := len(tb.flows())
	got, err := New(gateway.DefaultOwnership()).Cut(tb.t.Context(), state)
	if err != nil {
		tb.t.Fatal(err)
	}
	if after := len(tb.flows()); got != want || before-after != want {
		tb.t.Errorf("cut %d, %d fewer in the table; want %d", got, before-after, want)
	}
}

func TestKernelCutsWhatIsStaleAlone(t *testing.T) {
	tb := newTable(t)
	own := gateway.DefaultOwnership()
	ours := own.Forwarded().Value | own.Masquerade().Value | own.Uplink(2).Value
	other := uint32(0x4000) | own.Masquerade().Value | own.Uplink(1).Value // everything but the bit that counts
	const public6, pod6, client6 = "2001:db8:1::10", "[fd00:244:1::2]:8080", "[2001:db8:2::10]:40000"

	// Nothing of these is ever to go.
	tb.add(made(tcp, client, "198.51.100.99:22", pod1), other, answered, 0)
	tb.add(made(udp, client, "198.51.100.99:22", pod1), other, unanswered, 0)
	tb.add(made(udp, client6, "["+public6+"]:53", pod6), 0, unanswered, 0)
	tb.add(direct(tcp, client, "198.51.100.10:22"), own.Uplink(1).Value, answered, 0)
	tb.add(direct(udp, client, "198.51.100.10:7000"), own.Uplink(1).Value, answered, 0) // the host's own service
	tb.add(direct("", client, front), other, answered, 0)
	foreign := tb.flows()

	want := gateway.State{
		Forwards: []gateway.Forward{
			forward(public, tcp, 80, 80, pod1), forward(public, udp, 80, 80, pod1), forward(public, udp, 7000, 7000, pod1),
			forward(public6, tcp, 80, 80, pod6),
		},
		Egresses: egress(public, "10.244.1.2").Egresses,
	}
	tb.add(made(tcp, client, front, pod1), ours, answered, 0)
	tb.add(made(udp, client, front, pod1), ours, unanswered, 0)
	tb.add(made(tcp, client6, "["+public6+"]:80", pod6), ours|0x4000, answered, 0)
	tb.add(leaves("", "10.244.1.2:0", "192.0.2.1:0", public+":0"), ours, answered, 0)
	wanted := tb.flows()
	tb.cut(want, 0)

	tb.add(made(udp, "192.0.2.10:1", front, pod2), ours, answered, 0)
	tb.add(made(udp, "192.0.2.10:2", front, pod2), ours, answered, 9)
	tb.add(made(tcp, client6, "["+public6+"]:81", pod6), ours, answered, 0)
	tb.add(leaves("", "10.244.1.3:0", "192.0.2.2:0", public+":0"), ours, answered, 0)
	tb.add(direct(udp, "192.0.2.10:3", front), own.Uplink(1).Value, unanswered, 0) // sent before there were rules
	tb.cut(want, 5)
	if diff := cmp.Diff(wanted, tb.flows()); diff != "" {
		t.Errorf("after the cut (-want +got):\n%s", diff)
	}
	tb.cut(want, 0)

	tb.cut(gateway.State{}, 4)
	if diff := cmp.Diff(foreign, tb.flows()); diff != "" {
		t.Errorf("after cutting all of ours (-want +got):\n%s", diff)
	}
}

func TestKernelInterrupted(t *testing.T) {
	tb := newTable(t)
	tb.add(made(tcp, client, front, pod1), gateway.DefaultOwnership().Forwarded().Value, answered, 0)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if n, err := New(gateway.DefaultOwnership()).Cut(ctx, gateway.State{}); n != 0 || !errors.Is(err, context.Canceled) {
		t.Errorf("cut %d, %v; want 0 and that it was interrupted", n, err)
	}
	tb.cut(gateway.State{}, 1)
}

// fill adds connections of others.
func (tb table) fill(n int) {
	tb.t.Helper()
	for i := range n {
		source := netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})
		f := direct(tcp, netip.AddrPortFrom(source, uint16(10000+i>>16)).String(), "198.51.100.10:443")
		tb.add(f, gateway.DefaultOwnership().Uplink(1).Value, answered, 0)
	}
}

// BenchmarkCut ends one connection among so many of others.
func BenchmarkCut(b *testing.B) {
	own := gateway.DefaultOwnership()
	state := state(forward(public, udp, 80, 80, pod2))
	var empty time.Duration
	for _, others := range []int{0, 1000, 100_000} {
		b.Run(fmt.Sprintf("others=%d", others), func(b *testing.B) {
			tb := newTable(b)
			tb.fill(others)
			c := New(own)
			b.ResetTimer()
			for range b.N {
				b.StopTimer()
				tb.add(made(udp, client, front, pod1), own.Forwarded().Value, answered, 0)
				b.StartTimer()
				if n, err := c.Cut(b.Context(), state); n != 1 || err != nil {
					b.Fatal(n, err)
				}
			}
			if others == 0 {
				empty = b.Elapsed() / time.Duration(b.N)
				return
			}
			if empty > 0 {
				b.ReportMetric(float64(b.Elapsed()/time.Duration(b.N))/float64(empty), "x-of-empty")
			}
		})
	}
}
