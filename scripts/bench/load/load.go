// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package load creates connections and traffic between hosts of the lab and counts them. It uses plain system calls on
// dedicated threads, because the cost of the load itself hides the cost to measure. It knows nothing of SmartNat.
package load

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/smartnat/smartnat/scripts/lab"
)

// workers is the number of concurrent clients, enough to keep a few cores busy.
const workers = 8

// patience bounds each wait for the network.
const patience = 2 * time.Second

// Serve answers on TCP ports on all addresses of a host until the process ends. It echoes a single byte and discards longer
// input until its end.
func Serve(h *lab.Host, ports []uint16) error { return listen(h, ports, answer) }

// listen accepts connections on ports, calling answer for each.
func listen(h *lab.Host, ports []uint16, answer func(conn int, buffer []byte)) error {
	return h.Do(func() error {
		for _, port := range ports {
			listener, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return fmt.Errorf("opening a socket: %w", err)
			}
			if err := errors.Join(
				unix.SetsockoptInt(listener, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0),
				unix.SetsockoptTimeval(listener, unix.SOL_SOCKET, unix.SO_RCVTIMEO, timeval(patience)),
				unix.Bind(listener, &unix.SockaddrInet6{Port: int(port)}),
				unix.Listen(listener, 4096),
			); err != nil {
				return fmt.Errorf("listening on port %d: %w", port, err)
			}
			for range workers {
				go accept(listener, answer)
			}
		}
		return nil
	})
}

func accept(listener int, answer func(conn int, buffer []byte)) {
	buffer := make([]byte, 1<<18)
	for {
		conn, _, err := unix.Accept4(listener, unix.SOCK_CLOEXEC)
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) || errors.Is(err, unix.ECONNABORTED) {
			continue
		}
		if err != nil {
			return
		}
		answer(conn, buffer)
		_ = unix.Close(conn)
	}
}

func answer(conn int, buffer []byte) {
	for {
		n, err := retry(func() (int, error) { return unix.Read(conn, buffer) })
		if err != nil || n == 0 {
			return
		}
		if n > 1 {
			continue
		}
		if _, err := unix.Write(conn, buffer[:1]); err != nil {
			return
		}
	}
}

// retry repeats a call that a signal interrupted. The Go runtime sends such signals to itself.
func retry(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

// connect opens a connection that resets when closed, so that no state of it remains.
func connect(to netip.AddrPort, limit time.Duration) (int, error) {
	family, address := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()})
	if to.Addr().Is4() {
		family, address = unix.AF_INET, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}
	}
	for {
		conn, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return -1, fmt.Errorf("opening a socket: %w", err)
		}
		err = errors.Join(
			unix.SetsockoptTimeval(conn, unix.SOL_SOCKET, unix.SO_SNDTIMEO, timeval(limit)),
			unix.SetsockoptTimeval(conn, unix.SOL_SOCKET, unix.SO_RCVTIMEO, timeval(limit)),
			unix.SetsockoptLinger(conn, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}))
		if err == nil {
			err = unix.Connect(conn, address)
		}
		if err == nil {
			return conn, nil
		}
		_ = unix.Close(conn)
		if !errors.Is(err, unix.EINTR) {
			return -1, fmt.Errorf("connecting to %s: %w", to, err)
		}
	}
}

func timeval(d time.Duration) *unix.Timeval {
	t := unix.NsecToTimeval(d.Nanoseconds())
	return &t
}

// exchange sends a byte and waits for its echo.
func exchange(conn int, buffer []byte) error {
	if _, err := retry(func() (int, error) { return unix.Write(conn, buffer[:1]) }); err != nil {
		return err
	}
	n, err := retry(func() (int, error) { return unix.Read(conn, buffer[:1]) })
	if err == nil && n != 1 {
		err = errors.New("closed by the other side")
	}
	return err
}

// Load measures one kind of load from a host to sockets.
type Load func(from *lab.Host, to []netip.AddrPort, l Limits) (Turn, error)

// Limits bounds a measurement.
type Limits struct {
	Count int64         // operations
	Time  time.Duration // maximum duration
}

// Turn is the result of one measurement.
type Turn struct {
	Count, Failed int64
	// Clock and Processor are the wall time and the processor time of this process.
	Clock, Processor time.Duration
}

// stopwatch starts measuring time; the returned function sets the times of t.
func stopwatch(t *Turn) (stop func()) {
	started, used := time.Now(), processorTime()
	return func() { t.Clock, t.Processor = time.Since(started), processorTime()-used }
}

// processorTime returns the processor time of this process so far. Without IRQ_TIME_ACCOUNTING in the kernel, it includes the
// work on packets between namespaces, which the kernel does in the context of the sender.
func processorTime() time.Duration {
	var used unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &used); err != nil {
		return 0
	}
	return time.Duration(used.Nano())
}

// Connections opens l.Count connections, one after the other in each worker, and exchanges a byte on each.
func Connections(from *lab.Host, to []netip.AddrPort, l Limits) (Turn, error) {
	return together(from, l, func(r *rand.Rand, next func() bool, done, failed *atomic.Int64) error {
		buffer := make([]byte, 1)
		for next() {
			conn, err := connect(to[r.IntN(len(to))], patience)
			if err == nil {
				err = exchange(conn, buffer)
				_ = unix.Close(conn)
			}
			if err != nil {
				failed.Add(1)
				continue
			}
			done.Add(1)
		}
		return nil
	})
}

// Exchanges sends bytes back and forth on one connection per worker.
func Exchanges(from *lab.Host, to []netip.AddrPort, l Limits) (Turn, error) {
	return together(from, l, func(r *rand.Rand, next func() bool, done, _ *atomic.Int64) error {
		conn, err := connect(to[r.IntN(len(to))], patience)
		if err != nil {
			return err
		}
		defer func() { _ = unix.Close(conn) }()
		buffer := make([]byte, 1)
		for next() {
			if err := exchange(conn, buffer); err != nil {
				return fmt.Errorf("exchanging a byte: %w", err)
			}
			done.Add(1)
		}
		return nil
	})
}

// together runs work in all workers until next returns false.
func together(from *lab.Host, l Limits, work func(r *rand.Rand, next func() bool, done, failed *atomic.Int64) error) (t Turn, err error) {
	var taken, done, failed atomic.Int64
	started := time.Now()
	next := func() bool { return taken.Add(1) <= l.Count && time.Since(started) < l.Time }
	errs := make([]error, workers)
	stop := stopwatch(&t)
	var group sync.WaitGroup
	for i := range workers {
		group.Go(func() {
			r := rand.New(rand.NewPCG(uint64(i), uint64(started.UnixNano())))
			errs[i] = from.Do(func() error { return work(r, next, &done, &failed) })
		})
	}
	group.Wait()
	stop()
	t.Count, t.Failed = done.Load(), failed.Load()
	return t, errors.Join(errs...)
}

// Stream sends on one connection for l.Time and counts bits.
func Stream(from *lab.Host, to []netip.AddrPort, l Limits) (t Turn, err error) {
	err = from.Do(func() error {
		conn, err := connect(to[len(to)-1], patience)
		if err != nil {
			return err
		}
		defer func() { _ = unix.Close(conn) }()
		buffer := make([]byte, 1<<18)
		started := time.Now()
		stop := stopwatch(&t)
		for time.Since(started) < l.Time {
			n, err := retry(func() (int, error) { return unix.Write(conn, buffer) })
			if err != nil {
				return fmt.Errorf("sending: %w", err)
			}
			t.Count += int64(n) * 8
		}
		if err := unix.Shutdown(conn, unix.SHUT_WR); err != nil {
			return fmt.Errorf("ending a stream: %w", err)
		}
		// The other side closes after reading everything.
		if _, err := retry(func() (int, error) { return unix.Read(conn, buffer) }); err != nil {
			return fmt.Errorf("waiting for the end of a stream: %w", err)
		}
		stop()
		return nil
	})
	return t, err
}
