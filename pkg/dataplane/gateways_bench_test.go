// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package dataplane_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/smartnat/smartnat/pkg/testenv"
)

// BenchmarkGateways measures new connections and throughput through 1, 2 and 4 gateways behind a router with ECMP, in turns: each
// iteration takes a turn with each number. It prints a table of the medians (make bench-gateways).
func BenchmarkGateways(b *testing.B) {
	testenv.RequireTool(b, "ip")
	testenv.NewNetNS(b)
	manyRouters(b)
	for i := 1; i <= manyGateways; i++ {
		startOneOfMany(b, i, manySetup{masquerade: true})
	}
	testenv.In(b, "pods", func() error { return discard(b, fmt.Sprintf(":%d", sinkPort)) })
	var rows []gatewaysRow
	for _, n := range []int{1, 2, manyGateways} {
		rows = append(rows, gatewaysRow{gateways: n})
	}
	for b.Loop() {
		for i := range rows {
			route(b, rows[i].gateways)
			rows[i].connections.add(measureTurn(b, rows[i].gateways, connectOften))
			rows[i].stream.add(measureTurn(b, rows[i].gateways, sendMuch))
		}
	}
	var table strings.Builder
	fmt.Fprintf(&table, "\n%d CPUs for client, routers, gateways and pods together; medians of %d turns\n\n", runtime.NumCPU(), len(rows[0].stream.rates))
	table.WriteString("| gateways | connections/s | CPUs busy | busiest gateway's share | Gbit/s | CPUs busy | busiest gateway's share |\n|---:|---:|---:|---:|---:|---:|---:|\n")
	for _, r := range rows {
		gigabits := r.stream.rate() * 8 / 1e9
		fmt.Fprintf(&table, "| %d | %.0f | %.0f %% | %.0f %% | %.2f | %.0f %% | %.0f %% |\n", r.gateways, r.connections.rate(), 100*median(r.connections.busy),
			100*median(r.connections.shares), gigabits, 100*median(r.stream.busy), 100*median(r.stream.shares))
		b.ReportMetric(r.connections.rate(), fmt.Sprintf("conn/s-%dgw", r.gateways))
		b.ReportMetric(gigabits, fmt.Sprintf("Gbit/s-%dgw", r.gateways))
	}
	fmt.Println(table.String())
}

const (
	// sinkPort is the port of the pods that reads and forgets.
	sinkPort = 8082
	// manyClients connect or send at a time.
	manyClients = 16
	turnTime    = time.Second
)

// gatewaysRow is what was measured with a number of gateways.
type gatewaysRow struct {
	gateways            int
	connections, stream loadTurns
}

// loadTurns are measurements of the same.
type loadTurns struct{ rates, busy, shares []float64 }

// loadTurn is a rate for a second, the part of the time that the CPUs were busy, and the part of the packets that the busiest gateway got.
type loadTurn struct{ rate, busy, share float64 }

func (t *loadTurns) add(one loadTurn) {
	t.rates, t.busy, t.shares = append(t.rates, one.rate), append(t.busy, one.busy), append(t.shares, one.share)
}

func (t *loadTurns) rate() float64 { return median(t.rates) }

func median(list []float64) float64 {
	sorted := slices.Sorted(slices.Values(list))
	return sorted[len(sorted)/2]
}

// measureTurn runs a load in the client's network for a while. Load returns what it did until the deadline. A gateway without packets
// fails the benchmark: there would be fewer gateways than it says.
func measureTurn(b *testing.B, gateways int, load func(deadline time.Time) (int, error)) loadTurn {
	b.Helper()
	packets := sentTo(b, gateways)
	idle, all := cpuTime(b)
	started := time.Now()
	deadline := started.Add(turnTime)
	done, errs := make([]int, manyClients), make([]error, manyClients)
	var clients sync.WaitGroup
	for i := range manyClients {
		clients.Go(func() {
			errs[i] = testenv.InNetNS("client", func() (err error) { done[i], err = load(deadline); return err })
		})
	}
	clients.Wait()
	took := time.Since(started)
	if err := errors.Join(errs...); err != nil {
		b.Fatal(err)
	}
	sum, most, total := 0, uint64(0), uint64(0)
	for _, n := range done {
		sum += n
	}
	for i, now := range sentTo(b, gateways) {
		sent := now - packets[i]
		if sent == 0 {
			b.Fatalf("gateway %d of %d got no packets", i+1, gateways)
		}
		most, total = max(most, sent), total+sent
	}
	idleNow, allNow := cpuTime(b)
	return loadTurn{rate: float64(sum) / took.Seconds(), busy: 1 - (idleNow-idle)/(allNow-all), share: float64(most) / float64(total)}
}

// connectOften opens connections one after the other, each for a line to and fro, and counts them. A reset ends each: otherwise its port
// would be in use for a minute.
func connectOften(deadline time.Time) (n int, err error) {
	for time.Now().Before(deadline) {
		conn, err := net.DialTimeout("tcp", net.JoinHostPort(sharedExternal, "80"), 10*time.Second)
		if err != nil {
			return n, err
		}
		err = errors.Join(conn.SetDeadline(time.Now().Add(10*time.Second)), conn.(*net.TCPConn).SetLinger(0))
		if err == nil {
			_, err = conn.Write([]byte("who\n"))
		}
		if err == nil {
			_, err = bufio.NewReader(conn).ReadString('\n')
		}
		if err = errors.Join(err, conn.Close()); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

// sendMuch sends on one connection, and counts bytes.
func sendMuch(deadline time.Time) (n int, err error) {
	conn, err := net.DialTimeout("tcp", net.JoinHostPort(sharedExternal, strconv.Itoa(sinkPort)), 10*time.Second)
	if err != nil {
		return 0, err
	}
	block := make([]byte, 128<<10)
	for err == nil && time.Now().Before(deadline) {
		var sent int
		sent, err = conn.Write(block)
		n += sent
	}
	return n, errors.Join(err, conn.Close())
}

// discard reads whatever comes to an address of the current network namespace.
func discard(b *testing.B, address string) error {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	b.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = conn.Close() }()
				_, _ = io.Copy(io.Discard, conn)
			}()
		}
	}()
	return nil
}

// sentTo returns the packets that the router sent to each gateway so far.
func sentTo(b *testing.B, gateways int) []uint64 {
	b.Helper()
	var list []uint64
	for i := 1; i <= gateways; i++ {
		link, err := netlink.LinkByName(fmt.Sprintf("gw%d", i))
		if err != nil {
			b.Fatal(err)
		}
		list = append(list, link.Attrs().Statistics.TxPackets)
	}
	return list
}

// cpuTime returns the idle and the whole time of all CPUs since the start (proc_stat(5)), in the kernel's ticks.
func cpuTime(b *testing.B) (idle, all float64) {
	b.Helper()
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		b.Fatal(err)
	}
	line, _, _ := strings.Cut(string(text), "\n")
	for i, field := range strings.Fields(line)[1:9] { // guest time is part of user time
		ticks, err := strconv.ParseFloat(field, 64)
		if err != nil {
			b.Fatalf("/proc/stat: %q: %v", line, err)
		}
		if all += ticks; i == 3 || i == 4 { // idle, iowait
			idle += ticks
		}
	}
	return idle, all
}
