// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package dataplane_test

import (
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/smartnat/smartnat/pkg/testenv"
)

// Flags of TCP (RFC 9293, 3.1).
const (
	syn = 1 << 1
	rst = 1 << 2
	ack = 1 << 4
)

// closedPort is a port of the gateway on which no program listens.
const closedPort = 5555

// expectNoReset sends a segment of no connection from a pod to an address of the gateway, and then one that asks for a connection. The
// gateway must answer only the latter. It handles the segments in order.
func expectNoReset(t *testing.T, pod string, from, to netip.Addr) {
	t.Helper()
	const stray, asking = 1111, 2222
	var answers net.PacketConn
	testenv.In(t, pod, func() (err error) {
		network := "ip4:tcp"
		if from.Is6() {
			network = "ip6:tcp"
		}
		answers, err = net.ListenPacket(network, from.String())
		return err
	})
	defer answers.Close()
	for _, s := range []struct {
		port  uint16
		flags byte
	}{{stray, ack}, {stray + 1, syn | ack}, {asking, syn}} {
		segment := segment(netip.AddrPortFrom(from, s.port), netip.AddrPortFrom(to, closedPort), s.flags)
		if _, err := answers.WriteTo(segment, &net.IPAddr{IP: to.AsSlice()}); err != nil {
			t.Fatal(err)
		}
	}
	if err := answers.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	for buffer := make([]byte, 100); ; {
		n, _, err := answers.ReadFrom(buffer)
		if err != nil {
			t.Fatal(err)
		}
		if n < 20 || binary.BigEndian.Uint16(buffer) != closedPort || buffer[13]&rst == 0 {
			continue
		}
		if port := binary.BigEndian.Uint16(buffer[2:]); port != asking {
			t.Errorf("%s resets a connection of port %d that it does not know", to, port)
		}
		return
	}
}

// segment returns a TCP segment without data (RFC 9293, 3.1).
func segment(from, to netip.AddrPort, flags byte) []byte {
	s := make([]byte, 20)
	binary.BigEndian.PutUint16(s, from.Port())
	binary.BigEndian.PutUint16(s[2:], to.Port())
	binary.BigEndian.PutUint32(s[4:], 1)
	binary.BigEndian.PutUint32(s[8:], 1)
	s[12], s[13] = 5<<4, flags // words of the header
	binary.BigEndian.PutUint16(s[14:], 1000)
	sum := uint32(6 + len(s)) // the protocol and the length
	for words := slices.Concat(from.Addr().AsSlice(), to.Addr().AsSlice(), s); len(words) > 0; words = words[2:] {
		sum += uint32(binary.BigEndian.Uint16(words))
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	binary.BigEndian.PutUint16(s[16:], ^uint16(sum))
	return s
}
