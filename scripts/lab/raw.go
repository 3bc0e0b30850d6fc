// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package lab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// Flags of TCP, as Packet has them and SendTCP takes them.
const (
	SYN = 1 << 1
	RST = 1 << 2
	ACK = 1 << 4
)

// SendTCP sends one segment without data that no socket made, from whatever source address.
func (h *Host) SendTCP(source, destination netip.AddrPort, flags byte, sequence, acknowledged uint32) error {
	segment := make([]byte, 20)
	putPorts(segment, source, destination)
	binary.BigEndian.PutUint32(segment[4:], sequence)
	binary.BigEndian.PutUint32(segment[8:], acknowledged)
	segment[12], segment[13] = 5<<4, flags
	binary.BigEndian.PutUint16(segment[14:], 1024) // window
	return h.sendRaw(unix.IPPROTO_TCP, source.Addr(), destination.Addr(), segment, 16)
}

// SendUDP sends one datagram from whatever source address.
func (h *Host) SendUDP(source, destination netip.AddrPort, text string) error {
	datagram := append(make([]byte, 8), text...)
	putPorts(datagram, source, destination)
	binary.BigEndian.PutUint16(datagram[4:], uint16(len(datagram)))
	return h.sendRaw(unix.IPPROTO_UDP, source.Addr(), destination.Addr(), datagram, 6)
}

func putPorts(b []byte, source, destination netip.AddrPort) {
	binary.BigEndian.PutUint16(b, source.Port())
	binary.BigEndian.PutUint16(b[2:], destination.Port())
}

// sendRaw puts the headers of IP before a payload and, into that, the checksum.
func (h *Host) sendRaw(protocol byte, source, destination netip.Addr, payload []byte, checksumAt int) error {
	pseudo := append(source.AsSlice(), destination.AsSlice()...)
	pseudo = binary.BigEndian.AppendUint32(pseudo, uint32(len(payload)))
	pseudo = append(pseudo, 0, 0, 0, protocol)
	binary.BigEndian.PutUint16(payload[checksumAt:], checksum(append(pseudo, payload...)))

	family, header, to := unix.AF_INET, []byte(nil), unix.Sockaddr(&unix.SockaddrInet4{Addr: [4]byte(destination.AsSlice()[:4])})
	if destination.Is4() {
		header = make([]byte, 20) // the kernel fills in lengths, checksum and identity
		header[0], header[8], header[9] = 4<<4|5, 64, protocol
		copy(header[12:], source.AsSlice())
		copy(header[16:], destination.AsSlice())
	} else {
		family, to = unix.AF_INET6, &unix.SockaddrInet6{Addr: destination.As16()}
		header = make([]byte, 40)
		header[0], header[6], header[7] = 6<<4, protocol, 64
		binary.BigEndian.PutUint16(header[4:], uint16(len(payload)))
		copy(header[8:], source.AsSlice())
		copy(header[24:], destination.AsSlice())
	}
	err := h.Do(func() error {
		socket, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		if err != nil {
			return err
		}
		return errors.Join(unix.Sendto(socket, slices.Concat(header, payload), 0, to), unix.Close(socket))
	})
	if err != nil {
		return fmt.Errorf("%s: sending from %s to %s: %w", h.Name, source, destination, err)
	}
	return nil
}

// checksum is the Internet's, RFC 1071.
func checksum(b []byte) uint16 {
	var sum uint32
	for ; len(b) > 1; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	for sum>>16 > 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}
