// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package host

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"sync"

	"github.com/sirupsen/logrus"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/smartnat/smartnat/pkg/gateway"
)

// dumpAttempts bounds how often a dump is repeated that a change interrupted.
const dumpAttempts = 5

// Host is the host that we are on.
type Host struct {
	log        logrus.FieldLogger
	neighbours *neighbours
	// sctp is looked up once: what a kernel can do does not change under it.
	sctp func() bool
	// sockets remembers the sockets of the last look.
	sockets sockets
	// before returns what a kernel parameter was before smartnatd set it.
	before func(key string) (string, error)
	// physdev reports whether rules can match frames that a bridge switches. It is asked where there are any.
	physdev func() bool
}

// New returns the host. What becomes of its watch is logged. While it is watched, the nextHops are looked after, so that it
// is known which of them do not answer.
func New(log logrus.FieldLogger, nextHops ...netip.Addr) *Host {
	return &Host{
		log:        log,
		neighbours: newNeighbours(nextHops),
		sctp:       sync.OnceValue(func() bool { return sctp(os.DirFS("/"), kernelRelease()) }),
	}
}

// Before has the host ask for what kernel parameters were before smartnatd set them.
func (h *Host) Before(before func(key string) (string, error)) *Host {
	h.before = before
	return h
}

// Physdev has the host ask, once and only where a bridge gives its frames to netfilter, whether rules can match those.
func (h *Host) Physdev(physdev func() bool) *Host {
	h.physdev = sync.OnceValue(physdev)
	return h
}

// Observe returns what the host looks like.
func (h *Host) Observe() (gateway.Host, error) {
	links, err := dump(netlink.LinkList)
	if err != nil {
		return gateway.Host{}, fmt.Errorf("reading the links: %w", err)
	}
	addrs, err := dump(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return gateway.Host{}, fmt.Errorf("reading the addresses: %w", err)
	}
	host := gateway.Host{SCTP: h.sctp()}
	names := map[int]string{}
	addresses, peers := addressesByLink(addrs), peersByLink(addrs)
	temporaries, dormants := flagged(addrs, temporary), flagged(addrs, dormant)
	for _, l := range links {
		a := l.Attrs()
		names[a.Index] = a.Name
		host.Links = append(host.Links, gateway.Link{
			Name:           a.Name,
			Up:             a.RawFlags&unix.IFF_UP != 0 && a.RawFlags&unix.IFF_LOWER_UP != 0,
			Kind:           l.Type(),
			Addresses:      addresses[a.Index],
			Temporary:      temporaries[a.Index],
			Dormant:        dormants[a.Index],
			Peers:          peers[a.Index],
			Autoconfigured: slices.ContainsFunc(addrs, func(addr netlink.Addr) bool { return addr.LinkIndex == a.Index && autoconfigured(addr) }),
		})
	}
	follow(host.Links, links, names)
	h.forwarding(&host)
	slices.SortFunc(host.Links, func(a, b gateway.Link) int { return cmp.Compare(a.Name, b.Name) })
	if host.DefaultRoutes, host.Routes, err = routes(names); err != nil {
		return gateway.Host{}, err
	}
	if host.Listeners, err = h.Listeners(); err != nil {
		return gateway.Host{}, err
	}
	host.Unreachable, err = h.neighbours.observe()
	return host, err
}

func addressesByLink(addrs []netlink.Addr) map[int][]netip.Prefix {
	byLink := map[int][]netip.Prefix{}
	for _, a := range addrs {
		// An address that somebody else on the link was found to have is not the host's.
		if a.Flags&unix.IFA_F_DADFAILED != 0 {
			continue
		}
		addr, ok := netip.AddrFromSlice(a.IP)
		if !ok {
			continue
		}
		bits, _ := a.Mask.Size()
		byLink[a.LinkIndex] = append(byLink[a.LinkIndex], netip.PrefixFrom(addr.Unmap(), bits))
	}
	for _, prefixes := range byLink {
		slices.SortFunc(prefixes, netip.Prefix.Compare)
	}
	return byLink
}

// autoconfigured reports whether an address was made from a router advertisement: by the kernel, or by systemd-networkd or
// NetworkManager, which set the same flags (addrconf_prefix_rcv_add_addr in net/ipv6/addrconf.c).
func autoconfigured(a netlink.Addr) bool {
	return a.Flags&(unix.IFA_F_MANAGETEMPADDR|unix.IFA_F_TEMPORARY) != 0 && a.IP.To4() == nil
}

// flagged are the addresses of each link whose flags (IFA_FLAGS, rtnetlink(7)) are as wanted.
func flagged(addrs []netlink.Addr, wanted func(netlink.Addr) bool) map[int][]netip.Addr {
	byLink := map[int][]netip.Addr{}
	for _, a := range addrs {
		if addr, ok := netip.AddrFromSlice(a.IP); ok && wanted(a) {
			byLink[a.LinkIndex] = append(byLink[a.LinkIndex], addr.Unmap())
		}
	}
	for _, list := range byLink {
		slices.SortFunc(list, netip.Addr.Compare)
	}
	return byLink
}

// temporary tells addresses apart by IFA_F_TEMPORARY, which for IPv4 is IFA_F_SECONDARY: all but the first address of a network
// have it (linux/if_addr.h).
func temporary(a netlink.Addr) bool {
	return a.IP.To4() == nil && a.Flags&(unix.IFA_F_DADFAILED|unix.IFA_F_TEMPORARY) == unix.IFA_F_TEMPORARY
}

func dormant(a netlink.Addr) bool {
	return a.Flags&unix.IFA_F_DADFAILED == 0 && a.Flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DEPRECATED) != 0 && !temporary(a)
}

// peersByLink are the other ends, which the kernel has routes to.
func peersByLink(addrs []netlink.Addr) map[int][]netip.Prefix {
	byLink := map[int][]netip.Prefix{}
	for _, a := range addrs {
		if a.Flags&unix.IFA_F_DADFAILED != 0 || a.Peer == nil || a.Peer.IP.Equal(a.IP) {
			continue
		}
		if peer, ok := netip.AddrFromSlice(a.Peer.IP); ok {
			bits, _ := a.Peer.Mask.Size()
			byLink[a.LinkIndex] = append(byLink[a.LinkIndex], netip.PrefixFrom(peer.Unmap(), bits).Masked())
		}
	}
	for _, prefixes := range byLink {
		slices.SortFunc(prefixes, netip.Prefix.Compare)
	}
	return byLink
}

// nextHop is invalid where there is none.
func nextHop(hop *netlink.NexthopInfo) netip.Addr {
	ip := hop.Gw
	if via, ok := hop.Via.(*netlink.Via); ok && via != nil {
		ip = via.Addr
	}
	addr, _ := netip.AddrFromSlice(ip)
	return addr
}

func dump[T any](list func() ([]T, error)) ([]T, error) {
	var items []T
	err := retry(func() (err error) {
		items, err = list()
		return err
	})
	return items, err
}

// retry repeats a dump that the kernel says is inconsistent, and takes a family that the kernel lacks as empty.
func retry(list func() error) error {
	var err error
	for range dumpAttempts {
		if err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	if errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil
	}
	return err
}
