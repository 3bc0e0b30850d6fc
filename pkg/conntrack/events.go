// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package conntrack

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/smartnat/smartnat/pkg/flows"
	"github.com/smartnat/smartnat/pkg/gateway"
)

const (
	// endedBuffer is the size of the receive buffer for ended connections. A message takes about 1 KiB of it.
	endedBuffer = 16 << 20
	// endedPause is the time for which messages gather in the buffer, so that the process wakes up for many at once.
	endedPause = 20 * time.Millisecond
)

// events receives messages about connections that ended. It is safe for concurrent use.
type events struct {
	mark gateway.Mark
	// room is the size of the receive buffer.
	room int

	mu     sync.Mutex
	conn   *netlink.Conn
	raw    syscall.RawConn
	buffer []byte
	each   func(message []byte)
	lost   func()
}

func newEvents(own gateway.Ownership) events {
	return events{mark: own.Forwarded(), room: endedBuffer, buffer: make([]byte, 64<<10)}
}

// Ended watches our connections that end.
type Ended struct{ events }

// NewEnded returns an Ended for the connections that carry own's mark.
func NewEnded(own gateway.Ownership) *Ended { return &Ended{newEvents(own)} }

// Watch passes every connection of ours that ends to each, and calls lost whenever some ended unseen, as Traffic.Watch does.
func (w *Ended) Watch(ctx context.Context, each func(flows.Flow), lost func()) error {
	return w.watch(ctx, func(message []byte) {
		if f, ours := parseFlow(message, w.mark); ours {
			each(f.Flow)
		}
	}, lost)
}

// watch passes messages about ended connections, those with the mark and perhaps others, and calls lost whenever the kernel dropped
// messages because the buffer was full. It returns nil when ctx ends, and an error if a parameter of the kernel turns messages off.
func (e *events) watch(ctx context.Context, each func(message []byte), lost func()) error {
	// Kernels that cannot send messages have no such parameter.
	if events, err := readNumber("/proc/sys/net/netfilter/nf_conntrack_events"); err == nil && events == 0 {
		return errors.New("net.netfilter.nf_conntrack_events is 0, so the kernel does not report ended connections: set it to 2, or 1 before Linux 5.19")
	}
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return fmt.Errorf("subscribing to ended connections: %w", err)
	}
	defer conn.Close()
	raw, err := conn.SyscallConn()
	if err := errors.Join(err, conn.SetReadBuffer(e.room), conn.SetBPF(marked(e.mark)), conn.JoinGroup(unix.NFNLGRP_CONNTRACK_DESTROY)); err != nil {
		return fmt.Errorf("subscribing to ended connections: %w", err)
	}
	e.listen(conn, raw, each, lost)
	defer e.listen(nil, nil, nil, nil)
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	err = e.receive(ctx, raw)
	if ctx.Err() != nil {
		return nil // the connection may be closed at any point of receive
	}
	return err
}

func (e *events) receive(ctx context.Context, raw syscall.RawConn) error {
	pause := time.NewTicker(endedPause)
	defer pause.Stop()
	for {
		if err := e.await(raw); err != nil {
			return fmt.Errorf("reading ended connections: %w", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-pause.C:
		}
		if err := e.Drain(); err != nil {
			return err
		}
	}
}

func (e *events) listen(conn *netlink.Conn, raw syscall.RawConn, each func(message []byte), lost func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.conn, e.raw, e.each, e.lost = conn, raw, each, lost
}

// await waits for a message.
func (e *events) await(raw syscall.RawConn) error {
	var failed error
	err := raw.Read(func(fd uintptr) bool {
		var one [1]byte
		_, _, failed = unix.Recvfrom(int(fd), one[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		return !errors.Is(failed, unix.EAGAIN)
	})
	switch {
	case err != nil:
		return err
	case errors.Is(failed, unix.ENOBUFS): // which the kernel says once
		e.mu.Lock()
		defer e.mu.Unlock()
		e.lost()
		return nil
	case errors.Is(failed, unix.EINTR):
		return nil
	}
	return failed
}

// Drain passes all connections that ended until now, before it returns. Without a Watch it does nothing.
func (e *events) Drain() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.raw == nil {
		return nil
	}
	var failed error
	err := e.raw.Control(func(fd uintptr) {
		for {
			n, err := unix.Read(int(fd), e.buffer)
			switch {
			case errors.Is(err, unix.EAGAIN):
				return
			case errors.Is(err, unix.EINTR):
				continue
			case errors.Is(err, unix.ENOBUFS):
				e.lost()
				continue
			case err != nil:
				failed = err
				return
			}
			e.deliver(e.buffer[:n])
		}
	})
	if err := errors.Join(failed, err); err != nil && !errors.Is(err, syscall.EBADF) {
		return fmt.Errorf("reading ended connections: %w", err)
	}
	return nil
}

// deliver passes the connections of a datagram.
func (e *events) deliver(datagram []byte) {
	for len(datagram) >= unix.NLMSG_HDRLEN {
		length := int(binary.NativeEndian.Uint32(datagram))
		if length < unix.NLMSG_HDRLEN || length > len(datagram) {
			return
		}
		e.each(datagram[unix.NLMSG_HDRLEN:length])
		datagram = datagram[min(len(datagram), (length+unix.NLMSG_ALIGNTO-1)&^(unix.NLMSG_ALIGNTO-1)):]
	}
}

// marked is a socket filter that passes messages about connections with a mark. It finds the mark by an extension of the kernel
// (SKF_AD_NLATTR in linux/filter.h): the offset of an attribute whose kind is in X, searched from the offset in A.
func marked(mark gateway.Mark) []bpf.RawInstruction {
	const (
		firstAttribute = unix.NLMSG_HDRLEN + 4 // struct nfgenmsg
		findAttribute  = 1<<32 - 0x1000 + 12   // SKF_AD_OFF + SKF_AD_NLATTR
		attributeData  = 4
	)
	return []bpf.RawInstruction{
		{Op: unix.BPF_LDX | unix.BPF_W | unix.BPF_IMM, K: attrMark},
		{Op: unix.BPF_LD | unix.BPF_W | unix.BPF_IMM, K: firstAttribute},
		{Op: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: findAttribute},
		{Op: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: 0, Jt: 5},
		{Op: unix.BPF_MISC | unix.BPF_TAX},
		{Op: unix.BPF_LD | unix.BPF_W | unix.BPF_IND, K: attributeData}, // in network byte order, as both are
		{Op: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: mark.Mask},
		{Op: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: mark.Value, Jf: 1},
		{Op: unix.BPF_RET | unix.BPF_K, K: 1<<32 - 1},
		{Op: unix.BPF_RET | unix.BPF_K, K: 0},
	}
}
