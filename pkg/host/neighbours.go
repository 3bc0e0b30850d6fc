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
	// confirmation is how long a neighbour counts as reachable without a sign of it.
	confirmation = 5 * time.Second
	// retryNeighbour is the interval of probes for a neighbour without a sign. A failed next hop is known after confirmation and
	// the kernel's three requests, a recovered one within a second.
	retryNeighbour = time.Second
	// tick is the kernel's unit of time for neighbours (USER_HZ).
	tick = 10 * time.Millisecond
)

// States of a neighbour (neighbour(7)) in which the kernel sends to it. The kernel learned the address in the states learnt, so
// it may probe the neighbour again.
const (
	usable  = learnt | netlink.NUD_PROBE | netlink.NUD_PERMANENT | netlink.NUD_NOARP
	learnt  = netlink.NUD_REACHABLE | netlink.NUD_STALE | netlink.NUD_DELAY
	certain = netlink.NUD_REACHABLE | netlink.NUD_PERMANENT | netlink.NUD_NOARP
)

// neighbours remembers which next hops did not answer, because the kernel forgets that while it asks again.
type neighbours struct {
	// nextHops are always asked. further, if it is not nil, returns more: those that are no neighbours count as answering. An address of one
	// link only has the name of the link as its zone.
	nextHops []netip.Addr
	further  func() []netip.Addr

	mu          sync.Mutex
	unreachable map[netip.Addr]bool
}

// neighbour is the kernel's view of a next hop.
type neighbour struct {
	address netip.Addr
	// link is the index of its link, or 0 if none is up.
	link  int
	state int
	// confirmed is the time since the last sign of it.
	confirmed time.Duration
}

func newNeighbours(nextHops []netip.Addr) *neighbours {
	hops := slices.Clone(nextHops)
	slices.SortFunc(hops, netip.Addr.Compare)
	return &neighbours{nextHops: slices.Compact(hops), unreachable: map[netip.Addr]bool{}}
}

// asks reports whether there are next hops to ask, now or later.
func (n *neighbours) asks() bool { return len(n.nextHops) > 0 || n.further != nil }

// hops returns all next hops to ask.
func (n *neighbours) hops() []netip.Addr {
	if n.further == nil {
		return n.nextHops
	}
	hops := slices.Concat(n.nextHops, n.further())
	slices.SortFunc(hops, netip.Addr.Compare)
	return slices.Compact(hops)
}

// note records the state of a next hop and reports whether it changed.
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
	asked := n.hops()
	if len(asked) == 0 {
		return nil, nil
	}
	table, err := dump(func() ([]netlink.Neigh, error) { return netlink.NeighList(0, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("reading the neighbours: %w", err)
	}
	hops := make([]neighbour, 0, len(asked))
	for _, address := range asked {
		link, isNeighbour := linkTo(address)
		if !isNeighbour && !slices.Contains(n.nextHops, address) {
			continue
		}
		hop := neighbour{address: address, link: link}
		for _, entry := range table {
			if at, ok := netip.AddrFromSlice(entry.IP); ok && at.Unmap() == address.WithZone("") && entry.LinkIndex == hop.link {
				hop.state, hop.confirmed = entry.State, time.Duration(entry.Confirmed)*tick
			}
		}
		hops = append(hops, hop)
	}
	return hops, nil
}

// linkTo returns the index of the link of an address, or 0 if none is up. It reports false if the address is behind another one.
func linkTo(address netip.Addr) (index int, isNeighbour bool) {
	var link netlink.Link
	var err error
	if zone := address.Zone(); zone != "" {
		link, err = netlink.LinkByName(zone)
	} else {
		var routes []netlink.Route
		if routes, err = netlink.RouteGet(address.AsSlice()); err != nil || len(routes) == 0 {
			return 0, true
		}
		if len(routes[0].Gw) > 0 {
			return 0, false
		}
		link, err = netlink.LinkByIndex(routes[0].LinkIndex)
	}
	if err != nil || link.Attrs().RawFlags&unix.IFF_LOWER_UP == 0 {
		return 0, true
	}
	return link.Attrs().Index, true
}

// observe returns the sorted next hops that did not answer.
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
	// One that is no longer asked might never be found to answer.
	maps.DeleteFunc(n.unreachable, func(a netip.Addr, _ bool) bool {
		return !slices.ContainsFunc(hops, func(hop neighbour) bool { return hop.address == a })
	})
	return slices.SortedFunc(maps.Keys(n.unreachable), netip.Addr.Compare), nil
}

// probe makes the kernel ask for the next hops without a sign. It reports whether a next hop changed, and returns the time
// until the next probe.
func (n *neighbours) probe() (changed bool, next time.Duration, err error) {
	hops, err := n.look()
	if err != nil {
		return false, retryNeighbour, err
	}
	next = confirmation
	for _, hop := range hops {
		changed = n.note(hop) || changed
		if hop.state&certain == 0 {
			next = retryNeighbour
		}
		if hop.link != 0 {
			hop.ask()
		}
	}
	return changed, next, nil
}

// ask writes only to the kernel's neighbour table, as forwarded traffic does. It ignores errors: the next probe sees the
// result, and a missing entry does no harm.
func (hop neighbour) ask() {
	entry := &netlink.Neigh{LinkIndex: hop.link, IP: hop.address.AsSlice()}
	switch {
	case hop.state&learnt != 0 && hop.confirmed >= confirmation:
		// Probe at once, while traffic through the next hop continues.
		entry.State = netlink.NUD_PROBE
		_ = netlink.NeighSet(entry)
	case hop.state&usable == 0:
		entry.Flags = netlink.NTF_USE
		_ = netlink.NeighSet(entry)
	}
}

// event records the state of a next hop from a message of the kernel, and reports whether it changed. It does not use the
// library, which queries the kernel for some messages and panics on truncated ones.
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
	return slices.Contains(n.hops(), hop.address) && n.note(hop)
}
