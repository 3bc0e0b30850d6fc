// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package lab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Packet is an IP packet captured on a link.
type Packet struct {
	// Out is set if the host sent the packet.
	Out bool
	// Protocol is the IP protocol number: unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_ICMP...
	Protocol int
	// Source and Destination include ports if the protocol has them.
	Source, Destination netip.AddrPort
	// Flags are the TCP flags, and MSS is the segment size that a SYN announces.
	Flags byte
	MSS   uint16
}

func (p Packet) String() string {
	direction := "in"
	if p.Out {
		direction = "out"
	}
	return fmt.Sprintf("%s %s -> %s protocol %d", direction, p.Source, p.Destination, p.Protocol)
}

// Capture collects the packets that cross a link of a host, from its creation on. The kernel adds a packet before it
// processes it, so a packet that was answered is always included without waiting.
type Capture struct{ socket int }

// Capture starts a capture on a link.
func (h *Host) Capture(link string) (*Capture, error) {
	c := &Capture{}
	err := h.Do(func() error {
		device, err := net.InterfaceByName(link)
		if err != nil {
			return err
		}
		// The socket has no protocol until it is bound to the link, so that it receives nothing from other links.
		c.socket, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return err
		}
		// Only root gets such a large buffer. Without it, Packets may report losses.
		_ = unix.SetsockoptInt(c.socket, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20)
		err = unix.Bind(c.socket, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: device.Index})
		if err != nil {
			return errors.Join(err, unix.Close(c.socket))
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("%s: capturing on %s: %w", h.Name, link, err)
	}
	return c, nil
}

// Close ends the capture.
func (c *Capture) Close() error { return unix.Close(c.socket) }

// Packets returns the packets since the last call, or an error if the buffer overflowed.
func (c *Capture) Packets() ([]Packet, error) {
	var packets []Packet
	buffer := make([]byte, 64*1024)
	for {
		n, from, err := unix.Recvfrom(c.socket, buffer, 0)
		if errors.Is(err, unix.EAGAIN) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("reading a capture: %w", err)
		}
		packet, err := parsePacket(buffer[:n])
		if err != nil {
			continue // not IP
		}
		if link, ok := from.(*unix.SockaddrLinklayer); ok {
			packet.Out = link.Pkttype == unix.PACKET_OUTGOING
		}
		packets = append(packets, packet)
	}
	statistics, err := unix.GetsockoptTpacketStats(c.socket, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err != nil {
		return nil, fmt.Errorf("reading the drops of a capture: %w", err)
	}
	if statistics.Drops > 0 {
		return nil, fmt.Errorf("the capture lost %d packets", statistics.Drops)
	}
	return packets, nil
}

func htons(v uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], v)
	return binary.NativeEndian.Uint16(b[:])
}

// parsePacket parses the headers of an IP packet. It treats IPv6 extension headers as the protocol.
func parsePacket(b []byte) (Packet, error) {
	var p Packet
	var source, destination []byte
	var rest []byte
	switch {
	case len(b) >= 20 && b[0]>>4 == 4 && len(b) >= int(b[0]&15)*4:
		p.Protocol, source, destination, rest = int(b[9]), b[12:16], b[16:20], b[int(b[0]&15)*4:]
	case len(b) >= 40 && b[0]>>4 == 6:
		p.Protocol, source, destination, rest = int(b[6]), b[8:24], b[24:40], b[40:]
	default:
		return p, io.ErrUnexpectedEOF
	}
	var ports [2]uint16
	switch p.Protocol {
	case unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_SCTP:
		if len(rest) >= 4 {
			ports[0], ports[1] = binary.BigEndian.Uint16(rest), binary.BigEndian.Uint16(rest[2:])
		}
	}
	if p.Protocol == unix.IPPROTO_TCP && len(rest) >= 20 {
		p.Flags = rest[13]
		p.MSS = parseMSS(rest[20:max(20, min(len(rest), int(rest[12]>>4)*4))])
	}
	from, _ := netip.AddrFromSlice(source) // the length is right
	to, _ := netip.AddrFromSlice(destination)
	p.Source, p.Destination = netip.AddrPortFrom(from, ports[0]), netip.AddrPortFrom(to, ports[1])
	return p, nil
}

// parseMSS returns the maximum segment size in TCP options, or 0 if it is missing.
func parseMSS(options []byte) uint16 {
	for len(options) > 0 && options[0] != 0 {
		if options[0] == 1 { // padding
			options = options[1:]
			continue
		}
		if len(options) < 2 || options[1] < 2 || int(options[1]) > len(options) {
			return 0
		}
		if options[0] == 2 && options[1] == 4 {
			return binary.BigEndian.Uint16(options[2:])
		}
		options = options[options[1]:]
	}
	return 0
}
