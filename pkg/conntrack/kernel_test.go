// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package conntrack

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/ti-mo/conntrack"
	"github.com/ti-mo/netfilter"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/gateway/gatewaytest"
	"github.com/smartnat/smartnat/pkg/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// table is the kernel's connection table in a namespace of the test.
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

// add adds a connection to the table as the rules would make it.
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

// flows returns the connections in the table as text.
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

// endStale calls EndStale and checks that the table lost as many connections as it returns.
func (tb table) endStale(state gateway.State, want int) {
	tb.t.Helper()
	tb.cutSince(nil, state, want)
}

func (tb table) cutSince(since *gateway.State, state gateway.State, want int) {
	tb.t.Helper()
	before := len(tb.flows())
	got, err := New(gateway.DefaultOwnership()).EndStale(tb.t.Context(), since, state)
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
	other := uint32(0x4000) | own.Masquerade().Value | own.Uplink(1).Value // all bits except the one that counts
	const public6, pod6, client6 = "2001:db8:1::10", "[fd00:244:1::2]:8080", "[2001:db8:2::10]:40000"

	// These must always stay.
	tb.add(made(tcp, client, "198.51.100.99:22", pod1), other, answered, 0)
	tb.add(made(udp, client, "198.51.100.99:22", pod1), other, unanswered, 0)
	tb.add(made(udp, client6, "["+public6+"]:53", pod6), 0, unanswered, 0)
	tb.add(direct(tcp, client, "198.51.100.10:22"), own.Uplink(1).Value, answered, 0)
	tb.add(direct(udp, client, "198.51.100.10:7000"), own.Uplink(1).Value, answered, 0) // the host's own service
	tb.add(direct("", client, front), other, answered, 0)
	foreign := tb.flows()

	want := gateway.State{
		Forwards: []*gateway.Forward{
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
	tb.endStale(want, 0)

	tb.add(made(udp, "192.0.2.10:1", front, pod2), ours, answered, 0)
	tb.add(made(udp, "192.0.2.10:2", front, pod2), ours, answered, 9)
	tb.add(made(tcp, client6, "["+public6+"]:81", pod6), ours, answered, 0)
	tb.add(leaves("", "10.244.1.3:0", "192.0.2.2:0", public+":0"), ours, answered, 0)
	tb.add(direct(udp, "192.0.2.10:3", front), own.Uplink(1).Value, unanswered, 0)              // older than the rules
	tb.add(direct(tcp, "10.244.1.2:40000", "192.0.2.9:80"), own.Uplink(1).Value, unanswered, 0) // older than the rules
	tb.endStale(want, 6)
	if diff := cmp.Diff(wanted, tb.flows()); diff != "" {
		t.Errorf("after the cut (-want +got):\n%s", diff)
	}
	tb.endStale(want, 0)

	tb.endStale(gateway.State{}, 4)
	if diff := cmp.Diff(foreign, tb.flows()); diff != "" {
		t.Errorf("after cutting all of ours (-want +got):\n%s", diff)
	}
}

// TestKernelLooksWhereSomethingChanged expects that EndStale reads only connections that the change of the state affects.
func TestKernelLooksWhereSomethingChanged(t *testing.T) {
	tb := newTable(t)
	ours := gateway.DefaultOwnership().Forwarded().Value
	const public6, pod6, client6 = "2001:db8:1::10", "[fd00:244:1::2]:8080", "[2001:db8:2::10]:40000"
	before := gateway.State{
		Forwards: []*gateway.Forward{
			forward(public, tcp, 80, 80, pod1), forward(public, tcp, 81, 81, pod1), forward(public, udp, 80, 80, pod1),
			forward(public, udp, 100, 109, pod1), forward("198.51.100.11", tcp, 80, 80, pod1), forward(public6, tcp, 80, 80, pod6),
		},
		Egresses: egress(public, "10.244.1.2", "10.244.1.3").Egresses,
	}
	flows := map[string]flow{
		"tcp 80":          made(tcp, client, front, pod1),
		"tcp 81":          made(tcp, client, public+":81", pod1),
		"udp 80":          made(udp, client, front, pod1),
		"udp 105":         made(udp, client, public+":105", pod1),
		"another address": made(tcp, "192.0.2.10:1", "198.51.100.11:80", pod1),
		"IPv6":            made(tcp, client6, "["+public6+"]:80", pod6),
		"egress":          leaves(tcp, "10.244.1.2:5000", "192.0.2.1:443", public+":5000"),
		"other egress":    leaves(udp, "10.244.1.3:5000", "192.0.2.1:443", public+":5000"),
	}
	for _, f := range flows {
		tb.add(f, ours, answered, 0)
	}
	// A stale connection of an unchanged Forward is found only by a check of all connections.
	tb.add(made(tcp, "192.0.2.10:7", public+":81", pod2), ours, answered, 0)
	all := len(tb.flows())
	conn, err := netfilter.Dial(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()

	without := func(gone ...int) gateway.State {
		state := gateway.State{Egresses: before.Egresses}
		for i, f := range before.Forwards {
			if !slices.Contains(gone, i) {
				state.Forwards = append(state.Forwards, f)
			}
		}
		return state
	}
	for _, tc := range []struct {
		name  string
		after gateway.State
		want  []string
	}{
		{"nothing", before, nil},
		{"TCP", without(0), []string{"tcp 80"}},
		{"UDP", without(2), []string{"udp 80"}},
		{"a range, with all UDP on the address", without(3), []string{"udp 105", "udp 80"}},
		{"another address", without(4), []string{"another address"}},
		{"IPv6", without(5), []string{"IPv6"}},
		{"egress", gateway.State{Forwards: before.Forwards, Egresses: egress(public, "10.244.1.3").Egresses}, []string{"egress"}},
		{"ports of an address in one walk", without(0, 1), []string{"tcp 80", "tcp 81"}},
		{"protocols of an address in one walk", without(0, 2), []string{"tcp 80", "tcp 81", "udp 105", "udp 80"}},
		{"everything in one walk", without(0, 5), slices.Sorted(maps.Keys(flows))},
		{"a protocol on all addresses", without(0, 4), slices.Sorted(maps.Keys(flows))},
	} {
		var found []string
		for _, s := range atMost(1, changedSince(&before, tc.after).stale) {
			got, err := query{mark: gateway.DefaultOwnership().Forwarded(), scope: s}.run(conn)
			if err != nil {
				t.Fatal(err)
			}
			for _, g := range got {
				read := toFlow(g)
				read.answered = false
				for name, f := range flows {
					if read == f {
						found = append(found, name)
					}
				}
			}
		}
		slices.Sort(found)
		if diff := cmp.Diff(tc.want, found); diff != "" {
			t.Errorf("%s: read (-want +got):\n%s", tc.name, diff)
		}
	}
	tb.cutSince(&before, before, 0)
	tb.cutSince(&before, without(5), 1)
	tb.add(direct(udp, "192.0.2.10:3", public+":82"), 0, unanswered, 0)
	more := without(5)
	more.Forwards = append(more.Forwards, forward(public, udp, 82, 82, pod1))
	gatewaytest.Sort(more.Forwards)
	tb.cutSince(&before, more, 1)
	tb.cutSince(&before, gateway.State{Egresses: before.Egresses}, all-3)
	if left := len(tb.flows()); left != 2 {
		t.Errorf("%d connections are left, want the two that leave", left)
	}
}

func TestKernelInterrupted(t *testing.T) {
	tb := newTable(t)
	tb.add(made(tcp, client, front, pod1), gateway.DefaultOwnership().Forwarded().Value, answered, 0)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if n, err := New(gateway.DefaultOwnership()).EndStale(ctx, nil, gateway.State{}); n != 0 || !errors.Is(err, context.Canceled) {
		t.Errorf("cut %d, %v; want 0 and a cancellation", n, err)
	}
	tb.endStale(gateway.State{}, 1)
}

// fill adds n connections to another port.
func (tb table) fill(n int, mark uint32) {
	tb.t.Helper()
	for i := range n {
		source := netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})
		f := direct(tcp, netip.AddrPortFrom(source, uint16(10000+i>>16)).String(), public+":443")
		f.answeredBy = netip.MustParseAddrPort(pod1)
		tb.add(f, mark, answered, 0)
	}
}

// BenchmarkCut ends one connection of a removed endpoint among others, of another program or of another Mapping. It reports the
// median duration, and as x-of-empty the ratio to an otherwise empty table.
func BenchmarkCut(b *testing.B) {
	own := gateway.DefaultOwnership()
	c := New(own)
	since, state := state(forward(public, tcp, 443, 443, pod1), forward(public, udp, 80, 80, pod1)), state(forward(public, tcp, 443, 443, pod1), forward(public, udp, 80, 80, pod2))
	var empty time.Duration
	for _, bc := range []struct {
		whose  string
		others int
		mark   uint32
	}{{"empty", 0, 0}, {"foreign", 1000, own.Uplink(1).Value}, {"foreign", 100_000, own.Uplink(1).Value}, {"ours", 100_000, own.Forwarded().Value}} {
		b.Run(fmt.Sprintf("%s=%d", bc.whose, bc.others), func(b *testing.B) {
			tb := newTable(b)
			tb.fill(bc.others, bc.mark)
			took := make([]time.Duration, 0, b.N)
			for b.Loop() {
				tb.add(made(udp, client, front, pod1), own.Forwarded().Value, answered, 0)
				began := time.Now()
				if n, err := c.EndStale(b.Context(), &since, state); n != 1 || err != nil {
					b.Fatal(n, err)
				}
				took = append(took, time.Since(began))
			}
			slices.Sort(took)
			median := took[len(took)/2]
			if bc.others == 0 {
				empty = median
			}
			b.ReportMetric(float64(median.Microseconds())/1000, "ms-median")
			if empty > 0 {
				b.ReportMetric(float64(median)/float64(empty), "x-of-empty")
			}
		})
	}
}
