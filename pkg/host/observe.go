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

	"github.com/smartnat/smartnat/pkg/budget"
	"github.com/smartnat/smartnat/pkg/gateway"
)

// dumpAttempts bounds the repetitions of a dump that a change interrupted.
const dumpAttempts = 5

// Host is the host on which this process runs.
type Host struct {
	log        logrus.FieldLogger
	neighbours *neighbours
	// sctp is cached, because the abilities of a kernel do not change.
	sctp func() bool
	// sockets remembers the sockets of the last call.
	sockets sockets
	// others remembers the rules of other programs.
	others others
	// before returns the value of a kernel parameter before smartnatd set it.
	before func(key string) (string, error)
	// physdev reports whether rules can match frames that a bridge switches. It is called only if there are such frames.
	physdev func() bool
	// flowtable reports whether established connections can bypass the rules, or is nil.
	flowtable func() bool
	// helpers are those that the config uses.
	helpers []string
}

// New returns the host. It logs failures of the watch. While a Watch runs, the host probes the nextHops to know which of them
// do not answer.
func New(log logrus.FieldLogger, nextHops ...netip.Addr) *Host {
	return &Host{
		log:        log,
		neighbours: newNeighbours(nextHops),
		others:     others{legacy: readLegacy, readings: legacyReadings(), chains: otherChains{readings: budget.New(chainShare, 0)}},
		sctp:       sync.OnceValue(func() bool { return sctp(os.DirFS("/"), kernelRelease()) }),
	}
}

// Before sets the function that returns the value of a kernel parameter before smartnatd set it.
func (h *Host) Before(before func(key string) (string, error)) *Host {
	h.before = before
	return h
}

// Physdev sets the function that reports whether rules can match bridged frames. It is called at most once, and only if a
// bridge passes its frames to netfilter.
func (h *Host) Physdev(physdev func() bool) *Host {
	h.physdev = sync.OnceValue(physdev)
	return h
}

// Probe sets a function that returns further next hops to probe, which may change. The name of a link is the zone of an address that only
// that link has. An address that is no neighbour is not probed, and never in Unreachable.
func (h *Host) Probe(nextHops func() []netip.Addr) *Host {
	h.neighbours.further = nextHops
	return h
}

// Flowtable sets the function that reports whether established connections can bypass the rules. It is called at most once.
func (h *Host) Flowtable(flowtable func() bool) *Host {
	h.flowtable = sync.OnceValue(flowtable)
	return h
}

// Helpers sets the helpers of which Observe reports whether the kernel translates what they read.
func (h *Host) Helpers(helpers []gateway.Helper) *Host {
	for _, helper := range helpers {
		h.helpers = append(h.helpers, helper.Name)
	}
	slices.Sort(h.helpers)
	h.helpers = slices.Compact(h.helpers)
	return h
}

// OtherChains sets the functions that return the base chains of other programs, of nf_tables and of legacy iptables, which affect
// connections of Mappings.
func (h *Host) OtherChains(tables, legacy func() (gateway.OtherChains, error)) *Host {
	h.others.chains.read, h.others.chains.readLegacy = tables, legacy
	return h
}

// Observe returns the current state of the host.
func (h *Host) Observe() (gateway.Host, error) {
	links, err := dump(netlink.LinkList)
	if err != nil {
		return gateway.Host{}, fmt.Errorf("reading the links: %w", err)
	}
	addrs, err := dump(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return gateway.Host{}, fmt.Errorf("reading the addresses: %w", err)
	}
	host := gateway.Host{
		SCTP: h.sctp(), Flowtable: h.flowtable != nil && h.flowtable(), HelpersWithoutNAT: withoutNAT(os.DirFS("/"), kernelRelease(), h.helpers),
	}
	names := map[int]string{}
	addresses, peers := addressesByLink(addrs), peersByLink(addrs)
	temporaries, dormants := flagged(addrs, temporary), flagged(addrs, dormant)
	for _, l := range links {
		a := l.Attrs()
		names[a.Index] = a.Name
		host.Links = append(host.Links, gateway.Link{
			Name:           a.Name,
			Index:          a.Index,
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
	if host.Others, err = h.readOthers(); err != nil {
		return gateway.Host{}, err
	}
	host.Unreachable, err = h.neighbours.observe()
	return host, err
}

func addressesByLink(addrs []netlink.Addr) map[int][]netip.Prefix {
	byLink := map[int][]netip.Prefix{}
	for _, a := range addrs {
		// Another machine on the link has the address.
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

// autoconfigured reports whether an address comes from a router advertisement. The kernel sets these flags, and so do
// systemd-networkd and NetworkManager (addrconf_prefix_rcv_add_addr in net/ipv6/addrconf.c).
func autoconfigured(a netlink.Addr) bool {
	return a.Flags&(unix.IFA_F_MANAGETEMPADDR|unix.IFA_F_TEMPORARY) != 0 && a.IP.To4() == nil
}

// flagged returns the addresses of each link whose flags (IFA_FLAGS, rtnetlink(7)) match.
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

// temporary reports whether an address is a temporary one of IPv6. For IPv4, IFA_F_TEMPORARY means IFA_F_SECONDARY: every
// address of a network except the first has it (linux/if_addr.h).
func temporary(a netlink.Addr) bool {
	return a.IP.To4() == nil && a.Flags&(unix.IFA_F_DADFAILED|unix.IFA_F_TEMPORARY) == unix.IFA_F_TEMPORARY
}

func dormant(a netlink.Addr) bool {
	return a.Flags&unix.IFA_F_DADFAILED == 0 && a.Flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DEPRECATED) != 0 && !temporary(a)
}

// peersByLink returns the peer addresses of each link, to which the kernel has routes.
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

// nextHop returns an invalid address if there is no next hop.
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

// retry repeats a dump that the kernel reports as inconsistent, and treats a family that the kernel lacks as empty.
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
