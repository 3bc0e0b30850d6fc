// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package conntrack

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/traffic"
)

// Further numbers of the kernel (linux/netfilter/nfnetlink_conntrack.h).
const (
	attrCountersOriginal = 9  // CTA_COUNTERS_ORIG
	attrCountersReply    = 10 // CTA_COUNTERS_REPLY
	attrID               = 12

	attrPackets = 1 // CTA_COUNTERS_PACKETS
	attrBytes   = 2

	statusDying = 1 << 9 // IPS_DYING
)

const (
	// endedBuffer is the size of the receive buffer for ended connections. A message takes about 1 KiB of it.
	endedBuffer = 16 << 20
	// endedPause is the time for which messages gather in the buffer, so that the process wakes up for many at once.
	endedPause = 20 * time.Millisecond
)

// Traffic reads what our connections carried, which the kernel counts if net.netfilter.nf_conntrack_acct is 1. It is safe for
// concurrent use.
type Traffic struct {
	mark gateway.Mark
	// room is the size of the receive buffer for ended connections.
	room int

	mu     sync.Mutex
	conn   *netlink.Conn
	raw    syscall.RawConn
	buffer []byte
	ended  func(traffic.Flow)
	lost   func()
}

// NewTraffic returns a Traffic for the connections that carry own's mark.
func NewTraffic(own gateway.Ownership) *Traffic {
	return &Traffic{mark: own.Forwarded(), room: endedBuffer, buffer: make([]byte, 64<<10)}
}

// Watch passes every connection of ours that ends to ended, and calls lost whenever the kernel dropped messages about some because
// the buffer was full. It returns nil when ctx ends, and an error if a parameter of the kernel turns such messages off.
func (t *Traffic) Watch(ctx context.Context, ended func(traffic.Flow), lost func()) error {
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
	if err := errors.Join(err, conn.SetReadBuffer(t.room), conn.SetBPF(marked(t.mark)), conn.JoinGroup(unix.NFNLGRP_CONNTRACK_DESTROY)); err != nil {
		return fmt.Errorf("subscribing to ended connections: %w", err)
	}
	t.listen(conn, raw, ended, lost)
	defer t.listen(nil, nil, nil, nil)
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	pause := time.NewTicker(endedPause)
	defer pause.Stop()
	for {
		if err := t.await(raw); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("reading ended connections: %w", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-pause.C:
		}
		if err := t.Drain(); err != nil {
			return err
		}
	}
}

func (t *Traffic) listen(conn *netlink.Conn, raw syscall.RawConn, ended func(traffic.Flow), lost func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.conn, t.raw, t.ended, t.lost = conn, raw, ended, lost
}

// await waits for a message.
func (t *Traffic) await(raw syscall.RawConn) error {
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
		t.mu.Lock()
		defer t.mu.Unlock()
		t.lost()
		return nil
	case errors.Is(failed, unix.EINTR):
		return nil
	}
	return failed
}

// Drain passes all connections that ended until now, before it returns. Without a Watch it does nothing.
func (t *Traffic) Drain() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.raw == nil {
		return nil
	}
	var failed error
	err := t.raw.Control(func(fd uintptr) {
		for {
			n, err := unix.Read(int(fd), t.buffer)
			switch {
			case errors.Is(err, unix.EAGAIN):
				return
			case errors.Is(err, unix.EINTR):
				continue
			case errors.Is(err, unix.ENOBUFS):
				t.lost()
				continue
			case err != nil:
				failed = err
				return
			}
			t.deliver(t.buffer[:n])
		}
	})
	if err := errors.Join(failed, err); err != nil && !errors.Is(err, syscall.EBADF) {
		return fmt.Errorf("reading ended connections: %w", err)
	}
	return nil
}

// deliver passes the connections of a datagram.
func (t *Traffic) deliver(datagram []byte) {
	for len(datagram) >= unix.NLMSG_HDRLEN {
		length := int(binary.NativeEndian.Uint32(datagram))
		if length < unix.NLMSG_HDRLEN || length > len(datagram) {
			return
		}
		var f counted
		if f.parse(datagram[unix.NLMSG_HDRLEN:length]) && t.ours(f) {
			t.ended(f.flow())
		}
		datagram = datagram[min(len(datagram), (length+unix.NLMSG_ALIGNTO-1)&^(unix.NLMSG_ALIGNTO-1)):]
	}
}

func (t *Traffic) ours(f counted) bool { return f.mark&t.mark.Mask == t.mark.Value }

// Open passes all connections of ours that are open, one at a time. The kernel returns no others, so the cost depends on their
// number and on the size of the kernel's table.
func (t *Traffic) Open(each func(traffic.Flow)) error {
	request := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_CTNETLINK<<8|getConnections, unix.NLM_F_DUMP)
	request.AddData(&nl.Nfgenmsg{NfgenFamily: unix.AF_UNSPEC, Version: nl.NFNETLINK_V0})
	request.AddData(nl.NewRtAttr(attrMark, binary.BigEndian.AppendUint32(nil, t.mark.Value)))
	request.AddData(nl.NewRtAttr(attrMarkMask, binary.BigEndian.AppendUint32(nil, t.mark.Mask)))
	err := request.ExecuteIter(unix.NETLINK_NETFILTER, 0, func(message []byte) bool {
		var f counted
		if f.parse(message) && t.ours(f) && f.status&statusDying == 0 {
			each(f.flow())
		}
		return true
	})
	if err != nil && !errors.Is(err, nl.ErrDumpInterrupted) { // Connections change during the dump.
		return fmt.Errorf("reading open connections: %w", err)
	}
	return nil
}

// counted holds the properties of a connection that matter for traffic.
type counted struct {
	id, mark, status uint32
	protocol         uint8
	to               netip.Addr
	port             uint16
	original, reply  traffic.Volume
}

func (c counted) flow() traffic.Flow {
	return traffic.Flow{
		ID: c.id, Protocol: protocols[c.protocol], Destination: netip.AddrPortFrom(c.to, c.port), FromClient: c.original, ToClient: c.reply,
	}
}

// parse reads a message about a connection, which starts with family, version and resource (struct nfgenmsg). It returns false if
// the connection has no destination.
func (c *counted) parse(message []byte) bool {
	const header = 4
	if len(message) < header {
		return false
	}
	number := func(value []byte) uint32 {
		if len(value) != 4 {
			return 0
		}
		return binary.BigEndian.Uint32(value)
	}
	for kind, value := range attributes(message[header:]) {
		switch kind {
		case attrOriginal:
			c.parseTuple(value)
		case attrStatus:
			c.status = number(value)
		case attrMark:
			c.mark = number(value)
		case attrCountersOriginal:
			c.original = volume(value)
		case attrCountersReply:
			c.reply = volume(value)
		case attrID:
			c.id = number(value)
		}
	}
	return c.to.IsValid()
}

func (c *counted) parseTuple(tuple []byte) {
	for kind, value := range attributes(tuple) {
		switch kind {
		case attrAddresses:
			for kind, value := range attributes(value) {
				if kind == attrDestination || kind == attrDestination6 {
					c.to, _ = netip.AddrFromSlice(value)
				}
			}
		case attrProtocol:
			for kind, value := range attributes(value) {
				switch {
				case kind == attrNumber && len(value) == 1:
					c.protocol = value[0]
				case kind == attrDestinationPort && len(value) == 2:
					c.port = binary.BigEndian.Uint16(value)
				}
			}
		}
	}
}

func volume(counters []byte) (v traffic.Volume) {
	for kind, value := range attributes(counters) {
		switch {
		case len(value) != 8:
		case kind == attrPackets:
			v.Packets = binary.BigEndian.Uint64(value)
		case kind == attrBytes:
			v.Bytes = binary.BigEndian.Uint64(value)
		}
	}
	return v
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

// TableUsage returns the number of connections in the kernel's table, of all programs, and the most that it holds.
func TableUsage() (entries, limit int, err error) {
	entries, err = readNumber("/proc/sys/net/netfilter/nf_conntrack_count")
	limit, limitErr := readNumber("/proc/sys/net/netfilter/nf_conntrack_max")
	return entries, limit, errors.Join(err, limitErr)
}
