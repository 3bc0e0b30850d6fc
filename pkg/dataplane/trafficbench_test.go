// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package dataplane_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	logtest "github.com/sirupsen/logrus/hooks/test"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/smartnat/smartnat/pkg/budget"
	"github.com/smartnat/smartnat/pkg/conntrack"
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/meter"
	"github.com/smartnat/smartnat/pkg/testenv"
	"github.com/smartnat/smartnat/pkg/traffic"
)

// BenchmarkTraffic compares connections whose traffic is counted with those whose is not, in alternating turns on nftables. A
// connection opens, carries a byte in each direction, resets, and is forgotten by conntrack. Its processor time includes the
// client, the pod and the links; the time in softirqs counts as far as the kernel charges it to the process.
func BenchmarkTraffic(b *testing.B) {
	const perTurn = 1000
	testenv.RequireTool(b, "ip")
	testenv.NewNetNS(b)
	h := newHost(b, newNFTables(b, false))
	connectAll(b)
	forwards := []*gateway.Forward{forward("198.51.100.10", 80, "10.244.1.2")}
	state := gateway.State{Forwards: forwards, Uplinks: []gateway.Uplink{{Link: "eth1", Number: 1, Connected: prefixes("198.51.100.0/24")}}}
	if _, err := h.start().Apply(b.Context(), state); err != nil {
		b.Fatal(err)
	}
	turn := func(counted bool) float64 {
		h.write(b, "net/netfilter/nf_conntrack_acct", map[bool]string{true: "1", false: "0"}[counted])
		log, _ := logtest.NewNullLogger()
		m := meter.New(log, budget.Budget{})
		m.Follow(state)
		ctx, cancel := context.WithCancel(b.Context())
		done := testenv.Go(b, func() {
			if counted {
				m.Run(ctx, conntrack.NewTraffic(gateway.DefaultOwnership()))
			}
		})
		if counted {
			awaitSubscriber(b)
		}
		began := processorTime(b)
		testenv.In(b, "client", func() error { return openMany("198.51.100.10:80", perTurn) })
		if err := netlink.ConntrackTableFlush(netlink.ConntrackTable); err != nil {
			b.Fatal(err)
		}
		if !counted { // The walk over the kernel's table is the same for any number of connections.
			if err := conntrack.NewTraffic(gateway.DefaultOwnership()).Open(func(traffic.Flow) {}); err != nil {
				b.Fatal(err)
			}
		}
		reading := m.Read(b.Context())
		spent := processorTime(b) - began
		if counted && (len(reading.Entries) != 1 || reading.Entries[0].Connections != perTurn) {
			b.Errorf("counted %+v, want %d connections", reading, perTurn)
		}
		cancel()
		<-done
		return float64(spent.Microseconds()) / perTurn
	}
	var plain, counted []float64
	for b.Loop() {
		plain, counted = append(plain, turn(false)), append(counted, turn(true))
	}
	median := func(x []float64) float64 { slices.Sort(x); return x[len(x)/2] }
	b.ReportMetric(median(plain), "us-plain/connection")
	b.ReportMetric(median(counted), "us-counted/connection")
	b.ReportMetric(median(counted)/median(plain), "counted/plain")
}

// connectAll creates a client and a pod that answers every byte.
func connectAll(b *testing.B) {
	b.Helper()
	connect(b, "client", "eth1", []string{"198.51.100.10/24", "2001:db8:1::10/64"}, []string{"198.51.100.50/24", "2001:db8:1::50/64"})
	connect(b, "pod1", "pod1", []string{"10.244.1.1/24", "fd00:244:1::1/64"}, []string{"10.244.1.2/24", "fd00:244:1::2/64"})
	testenv.In(b, "pod1", func() error {
		listener, err := net.Listen("tcp", ":8080")
		if err != nil {
			return err
		}
		b.Cleanup(func() { listener.Close() })
		go func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				_, _ = io.CopyN(conn, conn, 1)
				conn.Close()
			}
		}()
		return nil
	})
}

func openMany(address string, n int) error {
	for range n {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			return err
		}
		one := []byte{1}
		if _, err = conn.Write(one); err == nil {
			_, err = conn.Read(one)
		}
		_ = conn.(*net.TCPConn).SetLinger(0)
		conn.Close()
		if err != nil {
			return fmt.Errorf("asking %s: %w", address, err)
		}
	}
	return nil
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

// BenchmarkRefusals measures a reading of the counters of refused packets of many ports.
func BenchmarkRefusals(b *testing.B) {
	for _, ports := range []int{100, 1_000, 10_000} {
		b.Run(fmt.Sprint(ports), func(b *testing.B) {
			testenv.RequireTool(b, "ip")
			testenv.NewNetNS(b)
			run(b, "ip", "addr add 198.51.100.10/24 dev lo")
			h := newHost(b, newNFTables(b, false))
			state := dense(ports)
			state.Uplinks = nil
			for _, f := range state.Forwards {
				f.Protocol, f.Backends = gateway.UDP, nil
			}
			if _, err := h.start().Apply(b.Context(), state); err != nil {
				b.Fatal(err)
			}
			refuseAll(b, state)
			refusals := h.ruleset(nil, nil).(meter.Refusals)
			var processor time.Duration
			counters := 0
			for b.Loop() {
				began := processorTime(b)
				counts, _, err := refusals.Refusals(b.Context())
				processor += processorTime(b) - began
				if err != nil || len(counts) == 0 {
					b.Fatalf("no counters: %v", err)
				}
				counters = len(counts) // the kernel may not have had a counter for all ports at once
			}
			b.ReportMetric(float64(counters), "counters")
			b.ReportMetric(float64(processor.Microseconds())/1000/float64(b.N), "ms-processor/op")
		})
	}
}

// refuseAll sends a datagram to each port.
func refuseAll(b *testing.B, state gateway.State) {
	b.Helper()
	conn, err := net.ListenPacket("udp4", "")
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	for _, f := range state.Forwards {
		to := net.UDPAddrFromAddrPort(netip.AddrPortFrom(f.Address, f.Ports.First))
		if _, err := conn.WriteTo([]byte{1}, to); !errors.Is(err, unix.EPERM) {
			b.Fatalf("%s: %v, want a refusal", f.Frontend, err)
		}
	}
}
