// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package conntrack

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/testenv"
	"github.com/smartnat/smartnat/pkg/traffic"
)

// watched is a Traffic that watches.
type watched struct {
	*Traffic
	ended []traffic.Flow
	lost  atomic.Int64
	stop  func() error
}

func watch(t testing.TB, room int) *watched {
	t.Helper()
	w := &watched{Traffic: NewTraffic(gateway.DefaultOwnership())}
	w.room = room
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	// In the namespace of the test.
	testenv.Go(t, func() {
		result <- w.Watch(ctx, func(f traffic.Flow) { w.ended = append(w.ended, f) }, func() { w.lost.Add(1) })
	})
	w.stop = func() error { cancel(); return <-result }
	for began := time.Now(); ; time.Sleep(time.Millisecond) {
		w.mu.Lock()
		ready := w.raw != nil
		w.mu.Unlock()
		if ready {
			return w
		}
		select {
		case err := <-result:
			t.Fatal(err)
		default:
		}
		if time.Since(began) > 10*time.Second {
			t.Fatal("not watching within 10 s")
		}
	}
}

// take returns the connections that ended so far.
func (w *watched) take(t *testing.T) []traffic.Flow {
	t.Helper()
	if err := w.Drain(); err != nil {
		t.Fatal(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	ended := w.ended
	w.ended = nil
	return ended
}

func connection(protocol gateway.Protocol, source, destination string) flow {
	return flow{
		protocol: protocol, source: netip.MustParseAddrPort(source), destination: netip.MustParseAddrPort(destination),
		answeredBy: netip.MustParseAddrPort(destination), answeredTo: netip.MustParseAddrPort(source),
	}
}

var sameFlows = cmp.Options{
	cmpopts.IgnoreFields(traffic.Flow{}, "ID"), cmpopts.EquateComparable(netip.AddrPort{}), cmpopts.EquateEmpty(),
	cmpopts.SortSlices(func(x, y traffic.Flow) bool { return x.Destination.Compare(y.Destination) < 0 }),
}

// TestKernelTraffic expects our connections alone, first as open and then as ended, with the same IDs.
func TestKernelTraffic(t *testing.T) {
	tb, own := newTable(t), gateway.DefaultOwnership()
	w := watch(t, endedBuffer)
	ours := own.Forwarded().Value | own.Uplink(2).Value | 1<<20
	tb.add(connection(gateway.TCP, "192.0.2.1:4000", "198.51.100.10:80"), ours, answered, 0)
	tb.add(connection(gateway.UDP, "192.0.2.1:4000", "198.51.100.10:53"), ours, unanswered, 0)
	tb.add(connection(gateway.UDP, "[2001:db8::1]:4000", "[2001:db8:1::10]:53"), ours, answered, 0)
	tb.add(connection(gateway.TCP, "192.0.2.1:4001", "198.51.100.10:81"), own.MarkMask&^own.Forwarded().Value, answered, 0)
	tb.add(connection(gateway.TCP, "192.0.2.1:4001", "198.51.100.10:82"), 0, answered, 0)
	want := []traffic.Flow{
		{Protocol: gateway.UDP, Destination: netip.MustParseAddrPort("198.51.100.10:53")},
		{Protocol: gateway.TCP, Destination: netip.MustParseAddrPort("198.51.100.10:80")},
		{Protocol: gateway.UDP, Destination: netip.MustParseAddrPort("[2001:db8:1::10]:53")},
	}
	var open []traffic.Flow
	if err := w.Open(func(f traffic.Flow) { open = append(open, f) }); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, open, sameFlows); diff != "" {
		t.Errorf("open (-want +got):\n%s", diff)
	}
	if ended := w.take(t); len(ended) > 0 {
		t.Errorf("%v ended", ended)
	}
	w.mu.Lock()
	w.mark = gateway.Mark{} // The kernel filters, so the process does not have to.
	w.mu.Unlock()
	if err := tb.Flush(); err != nil {
		t.Fatal(err)
	}
	ended := w.take(t)
	if diff := cmp.Diff(want, ended, sameFlows); diff != "" {
		t.Errorf("ended (-want +got):\n%s", diff)
	}
	ids := map[uint32]int{}
	for _, f := range append(open, ended...) {
		ids[f.ID]++
	}
	if len(ids) != 3 || ids[open[0].ID] != 2 || ids[open[1].ID] != 2 || ids[open[2].ID] != 2 {
		t.Errorf("IDs %v, want three twice", ids)
	}
	if err := w.stop(); err != nil || w.lost.Load() > 0 {
		t.Errorf("lost %d: %v", w.lost.Load(), err)
	}
	if err := w.Drain(); err != nil {
		t.Errorf("after the end: %v", err)
	}
}

// TestKernelTrafficLost overflows the receive buffer. The loss must be noticed, and reading must go on.
func TestKernelTrafficLost(t *testing.T) {
	tb, own := newTable(t), gateway.DefaultOwnership()
	w := watch(t, 8<<10)
	const n = 200
	fill := func() {
		for i := range n {
			tb.add(connection(gateway.UDP, fmt.Sprintf("192.0.2.1:%d", 4000+i), "198.51.100.10:53"), own.Forwarded().Value, unanswered, 0)
		}
	}
	fill()
	w.mu.Lock() // so that messages gather
	if err := tb.Flush(); err != nil {
		t.Fatal(err)
	}
	w.mu.Unlock()
	ended := len(w.take(t))
	for began := time.Now(); w.lost.Load() == 0; time.Sleep(time.Millisecond) {
		if time.Since(began) > 10*time.Second {
			t.Fatal("the loss was not noticed within 10 s")
		}
	}
	if ended == 0 || ended >= n {
		t.Errorf("%d of %d connections ended", ended, n)
	}
	tb.add(connection(gateway.UDP, "192.0.2.1:4000", "198.51.100.10:53"), own.Forwarded().Value, unanswered, 0)
	if err := tb.Flush(); err != nil {
		t.Fatal(err)
	}
	if ended := w.take(t); len(ended) != 1 {
		t.Errorf("%d connections ended after the loss, want 1", len(ended))
	}
	if err := w.stop(); err != nil {
		t.Error(err)
	}
}

// TestKernelTrafficSilent expects an error that says how to get messages.
func TestKernelTrafficSilent(t *testing.T) {
	newTable(t)
	const path = "/proc/sys/net/netfilter/nf_conntrack_events"
	if err := os.WriteFile(path, []byte("0"), 0); err != nil {
		t.Fatal(err)
	}
	err := NewTraffic(gateway.DefaultOwnership()).Watch(t.Context(), nil, nil)
	if err == nil || !strings.Contains(err.Error(), "net.netfilter.nf_conntrack_events is 0") {
		t.Errorf("error %v", err)
	}
}

// FuzzCounted parses arbitrary messages. None must cause a panic.
func FuzzCounted(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte("\x02\x00\x00\x00\x24\x00\x01\x80\x14\x00\x01\x80\x08\x00\x01\x00\x0a\xf4\x01\x02\x08\x00\x02\x00\x0a\x0a\x00\x02\x0c\x00\x02\x80\x05\x00\x01\x00\x11\x00\x00\x00"))
	f.Add([]byte("\x02\x00\x00\x00\x10\x00\x09\x80\x0c\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x07"))
	f.Fuzz(func(t *testing.T, message []byte) {
		var c counted
		if c.parse(message) != c.to.IsValid() {
			t.Error("a connection without a destination")
		}
		w := &Ended{}
		w.each = func(message []byte) { _, _ = parseFlow(message, w.mark) }
		w.deliver(message)
	})
}

// BenchmarkTraffic measures, in processor time for each connection, what its end costs the kernel with and without a reader, what
// the message costs the reader, and what a reading of open connections costs.
func BenchmarkTraffic(b *testing.B) {
	const n = 5000
	own := gateway.DefaultOwnership()
	fill := func(tb table) {
		for i := range n {
			tb.add(connection(gateway.UDP, fmt.Sprintf("192.0.%d.1:%d", 2+i/1000, 4000+i%1000), "198.51.100.10:53"), own.Forwarded().Value, unanswered, 0)
		}
	}
	measure := func(do func() error) time.Duration {
		began := processorTime(b)
		if err := do(); err != nil {
			b.Fatal(err)
		}
		return processorTime(b) - began
	}
	each := func(b *testing.B, spent time.Duration, unit string) {
		b.ReportMetric(float64(spent.Nanoseconds())/float64(b.N)/n, unit)
	}
	b.Run("without", func(b *testing.B) {
		tb := newTable(b)
		var kernel time.Duration
		for range b.N {
			fill(tb)
			kernel += measure(tb.Flush)
		}
		each(b, kernel, "ns-kernel/connection")
	})
	b.Run("with", func(b *testing.B) {
		tb := newTable(b)
		w := watch(b, endedBuffer)
		ended := 0
		w.each = func(message []byte) {
			var f counted
			if f.parse(message) && w.ours(f) {
				ended++
			}
		}
		var kernel, reader, open time.Duration
		for range b.N {
			fill(tb)
			open += measure(func() error { return w.Open(func(traffic.Flow) {}) })
			w.mu.Lock()
			kernel += measure(tb.Flush)
			w.mu.Unlock()
			reader += measure(w.Drain)
		}
		if w.lost.Load() > 0 || ended != b.N*n {
			b.Errorf("%d of %d ended, lost %d times", ended, b.N*n, w.lost.Load())
		}
		each(b, kernel, "ns-kernel/connection")
		each(b, reader, "ns-reader/connection")
		each(b, open, "ns-open/connection")
	})
}

// processorTime returns what the process has used so far.
func processorTime(t testing.TB) time.Duration {
	t.Helper()
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &usage); err != nil {
		t.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
