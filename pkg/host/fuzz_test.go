// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package host

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// FuzzMessages handles arbitrary messages of the kernel. It must not panic or add a next hop, and every message that is not
// about neighbours must cause a notification.
func FuzzMessages(f *testing.F) {
	f.Add(uint16(unix.RTM_NEWNEIGH), []byte{})
	f.Add(uint16(unix.RTM_NEWNEIGH), ofNeighbour("10.10.0.11", 2, netlink.NUD_FAILED))
	f.Add(uint16(unix.RTM_NEWNEIGH), ofNeighbour("fd00:10::11", 2, netlink.NUD_REACHABLE))
	f.Add(uint16(unix.RTM_NEWNEIGH), append(make([]byte, unix.SizeofNdMsg), 0xff, 0xff, 1, 0))
	f.Add(uint16(unix.RTM_DELNEIGH), []byte{1})
	f.Add(uint16(unix.RTM_NEWLINK), []byte{1})
	hops := addresses("10.10.0.11", "fd00:10::11")
	f.Fuzz(func(t *testing.T, kind uint16, data []byte) {
		h := &Host{neighbours: newNeighbours(hops)}
		concerns := h.concerns([]syscall.NetlinkMessage{{Header: syscall.NlMsghdr{Type: kind}, Data: data}})
		for hop := range h.neighbours.unreachable {
			if !slices.Contains(hops, hop) {
				t.Errorf("%v is no next hop", hop)
			}
		}
		if neighbour := kind == unix.RTM_NEWNEIGH || kind == unix.RTM_DELNEIGH; !neighbour && !concerns {
			t.Errorf("a message of type %d is ignored", kind)
		}
	})
}

// TestEvent checks the meaning of messages like the seeds of FuzzMessages.
func TestEvent(t *testing.T) {
	n := newNeighbours(addresses("10.10.0.11", "fd00:10::11"))
	for _, step := range []struct {
		name    string
		message []byte
		news    bool
	}{
		{"does not answer", ofNeighbour("10.10.0.11", 2, netlink.NUD_FAILED), true},
		{"still does not", ofNeighbour("10.10.0.11", 2, netlink.NUD_FAILED), false},
		{"answers", ofNeighbour("10.10.0.11", 2, netlink.NUD_REACHABLE), true},
		{"loses its link", ofNeighbour("fd00:10::11", 0, netlink.NUD_NONE), true},
		{"not a next hop", ofNeighbour("10.10.0.12", 2, netlink.NUD_FAILED), false},
		{"cut off", ofNeighbour("10.10.0.11", 2, netlink.NUD_FAILED)[:unix.SizeofNdMsg-1], false},
		{"without an address", ofNeighbour("10.10.0.11", 2, netlink.NUD_FAILED)[:unix.SizeofNdMsg], false},
	} {
		if news := n.event(step.message); news != step.news {
			t.Errorf("%s: news %t, want %t", step.name, news, step.news)
		}
	}
}

// ofNeighbour returns a message of the kernel about a neighbour (rtnetlink(7), struct ndmsg).
func ofNeighbour(address string, link, state int) []byte {
	message := binary.NativeEndian.AppendUint32(make([]byte, 4, unix.SizeofNdMsg), uint32(link))
	message = append(binary.NativeEndian.AppendUint16(message, uint16(state)), 0, 0)
	return append(message, nl.NewRtAttr(netlink.NDA_DST, netip.MustParseAddr(address).AsSlice()).Serialize()...)
}
