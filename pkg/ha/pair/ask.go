// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package pair

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// asker asks neighbours on one link in one family whether they are there. answers passes those that answer, and returns an error once it
// is closed.
type asker interface {
	ask(target netip.Addr) error
	answers(answered func(netip.Addr)) error
	close()
}

// newAsker opens a socket on a link. own is the address from which it asks.
func newAsker(link string, own netip.Addr) (asker, error) {
	at, err := net.InterfaceByName(link)
	if err != nil {
		return nil, fmt.Errorf("link %s: %w", link, err)
	}
	if len(at.HardwareAddr) != hardwareLen {
		return nil, fmt.Errorf("link %s: has no Ethernet address: its neighbours cannot be asked", link)
	}
	if own.Is4() {
		return newARP(at, own)
	}
	return newNDP(at, own)
}

const (
	hardwareLen = 6
	// An ARP packet for IPv4 on Ethernet (RFC 826).
	arpLen               = 28
	arpRequest, arpReply = 1, 2
)

// arp asks by ARP.
type arp struct {
	file *os.File
	raw  syscall.RawConn
	link *net.Interface
	own  netip.Addr
}

func htons(n uint16) uint16 { return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, n)) }

func newARP(link *net.Interface, own netip.Addr) (*arp, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, int(htons(unix.ETH_P_ARP)))
	if err != nil {
		return nil, fmt.Errorf("opening a socket for ARP (the drop-in of 'smartnatd ha render units' allows it): %w", err)
	}
	a := &arp{file: os.NewFile(uintptr(fd), "arp"), link: link, own: own}
	err = unix.Bind(fd, a.everyone())
	if err == nil {
		a.raw, err = a.file.SyscallConn()
	}
	if err != nil {
		a.close()
		return nil, fmt.Errorf("preparing the socket for ARP on %s: %w", link.Name, err)
	}
	return a, nil
}

func (a *arp) everyone() *unix.SockaddrLinklayer {
	return &unix.SockaddrLinklayer{
		Protocol: htons(unix.ETH_P_ARP), Ifindex: a.link.Index, Halen: hardwareLen, Addr: [8]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
	}
}

func (a *arp) ask(target netip.Addr) error {
	packet := make([]byte, 0, arpLen)
	packet = append(packet, 0, 1, 8, 0, hardwareLen, 4, 0, arpRequest) // Ethernet, IPv4
	packet = append(packet, a.link.HardwareAddr...)
	packet = append(packet, a.own.AsSlice()...)
	packet = append(packet, make([]byte, hardwareLen)...)
	packet = append(packet, target.AsSlice()...)
	var sent error
	err := a.raw.Control(func(fd uintptr) { sent = unix.Sendto(int(fd), packet, 0, a.everyone()) })
	return errors.Join(err, sent)
}

func (a *arp) answers(answered func(netip.Addr)) error {
	packet := make([]byte, 128)
	for {
		n, err := a.file.Read(packet)
		switch {
		case errors.Is(err, unix.ENETDOWN):
			continue // once for each time that the link goes down
		case err != nil:
			return err
		}
		if from, ok := parseARP(packet[:n]); ok {
			answered(from)
		}
	}
}

// parseARP returns the sender of an answer.
func parseARP(packet []byte) (netip.Addr, bool) {
	if len(packet) < arpLen || [7]byte(packet[:7]) != [7]byte{0, 1, 8, 0, hardwareLen, 4, 0} || packet[7] != arpReply {
		return netip.Addr{}, false
	}
	return netip.AddrFrom4([4]byte(packet[14:18])), true
}

func (a *arp) close() { _ = a.file.Close() }

// ndp asks by Neighbor Solicitation (RFC 4861).
type ndp struct {
	conn *ipv6.PacketConn
	link *net.Interface
}

// ndpHops is the hop limit of all messages of neighbour discovery: one from elsewhere has less.
const ndpHops = 255

// zone is the number of a link: package net remembers for a minute which number a name has, also after the link was made again.
func zone(link *net.Interface) string { return strconv.Itoa(link.Index) }

func newNDP(link *net.Interface, own netip.Addr) (*ndp, error) {
	if own.IsLinkLocalUnicast() {
		own = own.WithZone(zone(link))
	}
	conn, err := icmp.ListenPacket("ip6:ipv6-icmp", own.String())
	if err != nil {
		return nil, fmt.Errorf("opening a socket for neighbour discovery on %s: %w", link.Name, err)
	}
	c := conn.IPv6PacketConn()
	filter := ipv6.ICMPFilter{}
	filter.SetAll(true)
	filter.Accept(ipv6.ICMPTypeNeighborAdvertisement)
	err = errors.Join(c.SetICMPFilter(&filter), c.SetMulticastInterface(link), c.SetMulticastHopLimit(ndpHops),
		c.SetControlMessage(ipv6.FlagHopLimit|ipv6.FlagInterface, true))
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("preparing the socket for neighbour discovery on %s: %w", link.Name, err)
	}
	return &ndp{c, link}, nil
}

func (n *ndp) ask(target netip.Addr) error {
	body := make([]byte, 4, 28)
	body = append(body, target.AsSlice()...)
	body = append(append(body, 1, 1), n.link.HardwareAddr...) // the option Source Link-Layer Address
	message := icmp.Message{Type: ipv6.ICMPTypeNeighborSolicitation, Body: &icmp.RawBody{Data: body}}
	packet, err := message.Marshal(nil) // the kernel computes the checksum
	if err != nil {
		return err
	}
	group := netip.MustParseAddr("ff02::1:ff00:0").As16() // of the solicited node
	bytes := target.As16()
	copy(group[13:], bytes[13:])
	_, err = n.conn.WriteTo(packet, nil, &net.IPAddr{IP: group[:], Zone: zone(n.link)})
	return err
}

func (n *ndp) answers(answered func(netip.Addr)) error {
	packet := make([]byte, 256)
	for {
		size, control, _, err := n.conn.ReadFrom(packet)
		if err != nil {
			return err
		}
		if control == nil || control.HopLimit != ndpHops || control.IfIndex != n.link.Index {
			continue
		}
		if from, ok := parseAdvertisement(packet[:size]); ok {
			answered(from)
		}
	}
}

// parseAdvertisement returns the target of a Neighbor Advertisement.
func parseAdvertisement(packet []byte) (netip.Addr, bool) {
	if len(packet) < 24 || packet[0] != byte(ipv6.ICMPTypeNeighborAdvertisement) || packet[1] != 0 {
		return netip.Addr{}, false
	}
	return netip.AddrFrom16([16]byte(packet[8:24])), true
}

func (n *ndp) close() { _ = n.conn.Close() }
