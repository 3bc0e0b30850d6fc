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

// ServeName is like Serve but answers with the last byte of the address that the client connected to. Until uses it to
// distinguish endpoints.
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
		buffer[0] = a.Addr[15] // for IPv4 too, which is a mapped address here
	}
	if _, err := unix.Write(conn, buffer[:1]); err != nil {
		return
	}
	// The client closes first, with a reset.
	_, _ = retry(func() (int, error) { return unix.Read(conn, buffer[:1]) })
}

// Ask opens a connection on the calling thread, sends a byte and returns the answer.
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

// Until asks at the given interval until the answer is want, or any answer if want is 0, and returns the time of that answer.
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
				last = fmt.Errorf("%s: answer from .%d, want .%d", to, got, want)
			}
			pause(every)
		}
		return errors.Join(context.Cause(ctx), last)
	})
	return at, err
}

// pause blocks the thread, because an idle Go runtime's timers have a resolution of only a millisecond.
func pause(d time.Duration) {
	left := unix.NsecToTimespec(d.Nanoseconds())
	for errors.Is(unix.Nanosleep(&left, &left), unix.EINTR) {
	}
}
