// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package lab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// TCP flags for Packet and SendTCP.
const (
	SYN = 1 << 1
	RST = 1 << 2
	ACK = 1 << 4
)

// SendTCP sends one TCP segment without data through a raw socket, with any source address.
func (h *Host) SendTCP(source, destination netip.AddrPort, flags byte, sequence, acknowledged uint32) error {
	segment := make([]byte, 20)
	putPorts(segment, source, destination)
	binary.BigEndian.PutUint32(segment[4:], sequence)
	binary.BigEndian.PutUint32(segment[8:], acknowledged)
	segment[12], segment[13] = 5<<4, flags
	binary.BigEndian.PutUint16(segment[14:], 1024) // window
	return h.sendRaw(unix.IPPROTO_TCP, source.Addr(), destination.Addr(), segment, 16)
}

// SendUDP sends one datagram with any source address.
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

// sendRaw prepends IP headers to a payload and writes the checksum into the payload.
func (h *Host) sendRaw(protocol byte, source, destination netip.Addr, payload []byte, checksumAt int) error {
	pseudo := append(source.AsSlice(), destination.AsSlice()...)
	pseudo = binary.BigEndian.AppendUint32(pseudo, uint32(len(payload)))
	pseudo = append(pseudo, 0, 0, 0, protocol)
	binary.BigEndian.PutUint16(payload[checksumAt:], checksum(append(pseudo, payload...)))

	family, header, to := unix.AF_INET, []byte(nil), unix.Sockaddr(&unix.SockaddrInet4{Addr: [4]byte(destination.AsSlice()[:4])})
	if destination.Is4() {
		header = make([]byte, 20) // the kernel fills in length, checksum and ID
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

// checksum is the Internet checksum (RFC 1071).
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

// Prefix is a network in a router advertisement (RFC 4861, 4.6.2; as a route RFC 4191, 2.3).
type Prefix struct {
	netip.Prefix
	// OnLink means that the network is on the link, Autonomous that hosts configure addresses in it.
	OnLink, Autonomous bool
	// Route means that the network is reachable through the router.
	Route bool
	// Seconds is the lifetime; 0 revokes the network.
	Seconds uint32
}

// Advertise sends a router advertisement to all nodes on a link. Receivers set their hop limit for the link to hopLimit. It
// announces no default route.
func (h *Host) Advertise(link string, hopLimit byte, prefixes ...Prefix) error {
	// Type 134, code and checksum (filled in by the kernel), hop limit, no flags, router lifetime 0 (RFC 4861, 4.2).
	message := append([]byte{134, 0, 0, 0, hopLimit, 0, 0, 0}, make([]byte, 8)...)
	for _, p := range prefixes {
		seconds := binary.BigEndian.AppendUint32(nil, p.Seconds)
		if p.Route {
			message = slices.Concat(message, []byte{24, 3, byte(p.Bits()), 0}, seconds, p.Addr().AsSlice())
		}
		var flags byte
		if p.OnLink {
			flags |= 0x80
		}
		if p.Autonomous {
			flags |= 0x40
		}
		if flags != 0 {
			message = slices.Concat(message, []byte{3, 4, byte(p.Bits()), flags}, seconds, seconds, make([]byte, 4), p.Addr().AsSlice())
		}
	}
	err := h.Do(func() error {
		socket, err := unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMPV6)
		if err != nil {
			return err
		}
		on, err := net.InterfaceByName(link)
		if err == nil {
			err = errors.Join(
				unix.SetsockoptInt(socket, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, 255), // receivers require it
				unix.Sendto(socket, message, 0, &unix.SockaddrInet6{Addr: netip.IPv6LinkLocalAllNodes().As16(), ZoneId: uint32(on.Index)}),
			)
		}
		return errors.Join(err, unix.Close(socket))
	})
	if err != nil {
		return fmt.Errorf("%s: advertising by %s: %w", h.Name, link, err)
	}
	return nil
}
