// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package load

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/smartnat/smartnat/scripts/lab"
)

// ServeName is Serve with another answer: the last byte of the address that the host was reached by, by which Until tells
// endpoints from each other.
func ServeName(h *lab.Host, ports []uint16) error { return listen(h, ports, answerName) }

func answerName(conn int, buffer []byte) {
	n, err := retry(func() (int, error) { return unix.Read(conn, buffer[:1]) })
	if err != nil || n == 0 {
		return
	}
	address, err := unix.Getsockname(conn)
	if err != nil {
		return
	}
	if a, ok := address.(*unix.SockaddrInet6); ok {
		buffer[0] = a.Addr[15] // of IPv4 too, which is mapped into IPv6 here
	}
	if _, err := unix.Write(conn, buffer[:1]); err != nil {
		return
	}
	// The client closes first, with a reset.
	_, _ = retry(func() (int, error) { return unix.Read(conn, buffer[:1]) })
}

// Ask opens a connection on the calling thread, sends a byte and returns the one that comes back.
func Ask(to netip.AddrPort, limit time.Duration) (byte, error) {
	conn, err := connect(to, limit)
	if err != nil {
		return 0, err
	}
	defer func() { _ = unix.Close(conn) }()
	buffer := []byte{0}
	err = exchange(conn, buffer)
	return buffer[0], err
}

// Until asks again and again, every so often, until it gets the answer that is wanted (any, when that is 0), and returns when
// that was.
func Until(ctx context.Context, from *lab.Host, to netip.AddrPort, want byte, every time.Duration) (at time.Time, err error) {
	err = from.Do(func() error {
		var last error
		for ctx.Err() == nil {
			got, err := Ask(to, 20*time.Millisecond)
			at = time.Now()
			if err == nil && (want == 0 || got == want) {
				return nil
			}
			if last = err; err == nil {
				last = fmt.Errorf("%s is answered by .%d, not .%d", to, got, want)
			}
			pause(every)
		}
		return errors.Join(context.Cause(ctx), last)
	})
	return at, err
}

// pause sleeps on the thread: the runtime's own timers are as coarse as a millisecond where it waits for nothing else.
func pause(d time.Duration) {
	left := unix.NsecToTimespec(d.Nanoseconds())
	for errors.Is(unix.Nanosleep(&left, &left), unix.EINTR) {
	}
}
