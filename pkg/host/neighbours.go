// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package host

import (
	"encoding/binary"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	mdlayher "github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	// confirmation is how long a neighbour is believed to be there without a sign of it.
	confirmation = 5 * time.Second
	// retryNeighbour is how often a neighbour is looked after that gives none. A next hop that dies is known after confirmation and
	// the kernel's own three requests, and one that comes back within a second.
	retryNeighbour = time.Second
	// tick is the kernel's unit of time in what it tells of neighbours (USER_HZ).
	tick = 10 * time.Millisecond
)

// States of a neighbour (neighbour(7)) in which the kernel sends to it, and those of them that the kernel learnt and so may
// be asked to look at again.
const (
	usable  = learnt | netlink.NUD_PROBE | netlink.NUD_PERMANENT | netlink.NUD_NOARP
	learnt  = netlink.NUD_REACHABLE | netlink.NUD_STALE | netlink.NUD_DELAY
	certain = netlink.NUD_REACHABLE | netlink.NUD_PERMANENT | netlink.NUD_NOARP
)

// neighbours remembers which of the next hops did not answer: while the kernel asks one anew it says nothing of it.
type neighbours struct {
	nextHops []netip.Addr

	mu          sync.Mutex
	unreachable map[netip.Addr]bool
}

// neighbour is a next hop as the kernel sees it.
type neighbour struct {
	address netip.Addr
	// link is the index of the link that it is on; 0 where it is on none that is up.
	link  int
	state int
	// confirmed is how long ago there was a sign of it.
	confirmed time.Duration
}

func newNeighbours(nextHops []netip.Addr) *neighbours {
	hops := slices.Clone(nextHops)
	slices.SortFunc(hops, netip.Addr.Compare)
	return &neighbours{nextHops: slices.Compact(hops), unreachable: map[netip.Addr]bool{}}
}

// note takes down what becomes of a next hop, and reports whether that is news.
func (n *neighbours) note(hop neighbour) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	was := n.unreachable[hop.address]
	switch {
	case hop.link == 0 || hop.state&netlink.NUD_FAILED != 0:
		n.unreachable[hop.address] = true
	case hop.state&usable != 0:
		delete(n.unreachable, hop.address)
	}
	return n.unreachable[hop.address] != was
}

// look reads the next hops.
func (n *neighbours) look() ([]neighbour, error) {
	if len(n.nextHops) == 0 {
		return nil, nil
	}
	table, err := dump(func() ([]netlink.Neigh, error) { return netlink.NeighList(0, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("reading the neighbours: %w", err)
	}
	hops := make([]neighbour, 0, len(n.nextHops))
	for _, address := range n.nextHops {
		hop := neighbour{address: address, link: linkTo(address)}
		for _, entry := range table {
			if at, ok := netip.AddrFromSlice(entry.IP); ok && at.Unmap() == address && entry.LinkIndex == hop.link {
				hop.state, hop.confirmed = entry.State, time.Duration(entry.Confirmed)*tick
			}
		}
		hops = append(hops, hop)
	}
	return hops, nil
}

// linkTo returns the index of the link that an address is on, or 0 where there is none that is up.
func linkTo(address netip.Addr) int {
	routes, err := netlink.RouteGet(address.AsSlice())
	if err != nil || len(routes) == 0 || len(routes[0].Gw) > 0 {
		return 0
	}
	link, err := netlink.LinkByIndex(routes[0].LinkIndex)
	if err != nil || link.Attrs().RawFlags&unix.IFF_LOWER_UP == 0 {
		return 0
	}
	return routes[0].LinkIndex
}

// observe returns the next hops that did not answer, sorted.
func (n *neighbours) observe() ([]netip.Addr, error) {
	hops, err := n.look()
	if err != nil {
		return nil, err
	}
	for _, hop := range hops {
		n.note(hop)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.SortedFunc(maps.Keys(n.unreachable), netip.Addr.Compare), nil
}

// probe has the kernel ask for the next hops that it has no sign of, reports whether one went or came, and says when to
// look after them again.
func (n *neighbours) probe() (news bool, next time.Duration, err error) {
	hops, err := n.look()
	if err != nil {
		return false, retryNeighbour, err
	}
	next = confirmation
	for _, hop := range hops {
		news = n.note(hop) || news
		if hop.state&certain == 0 {
			next = retryNeighbour
		}
		if hop.link != 0 {
			hop.ask()
		}
	}
	return news, next, nil
}

// ask writes to the kernel's own memory of neighbours alone, as the traffic through it does. What becomes of it is seen at
// the next look; an entry that went meanwhile is no loss.
func (hop neighbour) ask() {
	entry := &netlink.Neigh{LinkIndex: hop.link, IP: hop.address.AsSlice()}
	switch {
	case hop.state&learnt != 0 && hop.confirmed >= confirmation:
		// Asked at once, while traffic through it goes on.
		entry.State = netlink.NUD_PROBE
		_ = netlink.NeighSet(entry)
	case hop.state&usable == 0:
		entry.Flags = netlink.NTF_USE
		_ = netlink.NeighSet(entry)
	}
}

// event takes down what a message of the kernel says of a next hop, and reports whether that is news. The library would ask
// the kernel back for some messages, and panics over ones that are cut off.
func (n *neighbours) event(message []byte) bool {
	if len(message) < unix.SizeofNdMsg {
		return false
	}
	attributes, err := mdlayher.UnmarshalAttributes(message[unix.SizeofNdMsg:])
	if err != nil {
		return false
	}
	hop := neighbour{link: int(int32(binary.NativeEndian.Uint32(message[4:]))), state: int(binary.NativeEndian.Uint16(message[8:]))}
	for _, a := range attributes {
		if a.Type == netlink.NDA_DST {
			hop.address, _ = netip.AddrFromSlice(a.Data)
		}
	}
	hop.address = hop.address.Unmap()
	return slices.Contains(n.nextHops, hop.address) && n.note(hop)
}
