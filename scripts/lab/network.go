// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package lab

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// links holds the bridges and the cables to them. The bridges are in the lab's own network namespace, which has no addresses.
type links struct {
	bridges map[segment]*netlink.Bridge
	cables  []netlink.Link
}

func newLinks(segments ...segment) (*links, error) {
	// With br_netfilter loaded, bridges would track connections too.
	err := os.WriteFile("/proc/sys/net/bridge/bridge-nf-call-iptables", []byte("0"), 0)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("making bridges bypass iptables: %w", err)
	}
	n := &links{bridges: map[segment]*netlink.Bridge{}}
	for _, s := range segments {
		if err := n.addBridge(s); err != nil {
			return nil, err
		}
	}
	return n, nil
}

func (n *links) addBridge(s segment) error {
	off := false
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: string(s)}, MulticastSnooping: &off}
	if err := netlink.LinkAdd(bridge); err != nil {
		return fmt.Errorf("creating bridge %s: %w", s, err)
	}
	n.bridges[s] = bridge
	if err := netlink.LinkSetUp(bridge); err != nil {
		return fmt.Errorf("bringing bridge %s up: %w", s, err)
	}
	return nil
}

func (n *links) close() error {
	var errs []error
	// The kernel would remove the links with the hosts' namespaces, but with a delay.
	for _, cable := range n.cables {
		errs = append(errs, netlink.LinkDel(cable))
	}
	for _, bridge := range n.bridges {
		errs = append(errs, netlink.LinkDel(bridge))
	}
	return errors.Join(errs...)
}

// join sets the host's sysctls, links, addresses and routes.
func (n *links) join(h *Host, spec hostSpec) error {
	for name, value := range spec.sysctls {
		if err := h.SetSysctl(name, value); err != nil {
			return fmt.Errorf("%s: %w", h.Name, err)
		}
	}
	// Skip duplicate address detection for link-local addresses too.
	for _, name := range []string{"net.ipv6.conf.all.accept_dad", "net.ipv6.conf.default.accept_dad"} {
		if err := h.SetSysctl(name, "0"); err != nil {
			return fmt.Errorf("%s: %w", h.Name, err)
		}
	}
	inside, err := netlink.NewHandleAt(h.ns, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("%s: netlink: %w", h.Name, err)
	}
	defer inside.Close()
	if err := linkUp(inside, "lo"); err != nil {
		return fmt.Errorf("%s: %w", h.Name, err)
	}
	for _, link := range spec.links {
		if err := n.connect(h, inside, link); err != nil {
			return fmt.Errorf("%s: link %s: %w", h.Name, link.name, err)
		}
	}
	for _, route := range spec.routes {
		if err := addRoute(inside, route); err != nil {
			return fmt.Errorf("%s: route to %q via %s: %w", h.Name, route.destination, route.via, err)
		}
	}
	return nil
}

// connect adds a link between the host and a segment.
func (n *links) connect(h *Host, inside *netlink.Handle, link linkSpec) error {
	cable := &netlink.Veth{
		LinkAttrs:     netlink.LinkAttrs{Name: cableName(h.Name, link.name), MasterIndex: n.bridges[link.segment].Index},
		PeerName:      link.name,
		PeerNamespace: netlink.NsFd(h.ns),
		// The address is fixed, because neighbours cache it, even when a new host replaces this one.
		PeerHardwareAddr: hardwareAddress(h.Name, link.name),
	}
	if err := netlink.LinkAdd(cable); err != nil {
		return err
	}
	n.cables = append(n.cables, cable)
	if err := netlink.LinkSetUp(cable); err != nil {
		return err
	}
	if err := linkUp(inside, link.name); err != nil {
		return err
	}
	for _, address := range link.addresses {
		if err := addAddress(inside, link.name, address); err != nil {
			return err
		}
	}
	return nil
}

// AddUplink gives a host a link eth1 to the first external segment, with these addresses.
func (l *Lab) AddUplink(host string, addresses ...string) error {
	h := l.Host(host)
	inside, err := netlink.NewHandleAt(h.ns, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("%s: netlink: %w", host, err)
	}
	defer inside.Close()
	if err := l.links.connect(h, inside, linkSpec{"eth1", outside1, addresses}); err != nil {
		return fmt.Errorf("%s: link eth1: %w", host, err)
	}
	return nil
}

// hardwareAddress returns a constant, locally administered address for a link.
func hardwareAddress(host, link string) net.HardwareAddr {
	sum := sha256.Sum256([]byte(cableName(host, link)))
	return append(net.HardwareAddr{0x02}, sum[:5]...)
}

// disconnect removes the cables of a host, including their ends in it.
func (n *links) disconnect(spec hostSpec) error {
	var errs []error
	for _, link := range spec.links {
		name := cableName(spec.name, link.name)
		i := slices.IndexFunc(n.cables, func(cable netlink.Link) bool { return cable.Attrs().Name == name })
		if i < 0 {
			continue
		}
		errs = append(errs, netlink.LinkDel(n.cables[i]))
		n.cables = slices.Delete(n.cables, i, i+1)
	}
	return errors.Join(errs...)
}

func linkUp(inside *netlink.Handle, name string) error {
	link, err := inside.LinkByName(name)
	if err != nil {
		return fmt.Errorf("finding %s: %w", name, err)
	}
	return inside.LinkSetUp(link)
}

func addAddress(inside *netlink.Handle, name, address string) error {
	link, err := inside.LinkByName(name)
	if err != nil {
		return fmt.Errorf("finding %s: %w", name, err)
	}
	parsed, err := netlink.ParseAddr(address)
	if err != nil {
		return fmt.Errorf("address %s: %w", address, err)
	}
	if parsed.IP.To4() == nil {
		parsed.Flags = unix.IFA_F_NODAD // usable at once, without a second of duplicate address detection
	}
	return inside.AddrAdd(link, parsed)
}

func addRoute(inside *netlink.Handle, spec routeSpec) error {
	via, err := netip.ParseAddr(spec.via)
	if err != nil {
		return err
	}
	route := &netlink.Route{Gw: via.AsSlice()}
	if spec.destination != "" {
		if route.Dst, err = netlink.ParseIPNet(spec.destination); err != nil {
			return err
		}
	}
	return inside.RouteAdd(route)
}

// SetLink sets one of the host's links up or down, as `ip link set` does.
func (h *Host) SetLink(name string, up bool) error {
	inside, err := netlink.NewHandleAt(h.ns, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("%s: netlink: %w", h.Name, err)
	}
	defer inside.Close()
	link, err := inside.LinkByName(name)
	if err != nil {
		return fmt.Errorf("%s: finding %s: %w", h.Name, name, err)
	}
	if up {
		return inside.LinkSetUp(link)
	}
	return inside.LinkSetDown(link)
}

// unlink removes one of the host's links if it exists.
func (h *Host) unlink(name string) error {
	inside, err := netlink.NewHandleAt(h.ns, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("%s: netlink: %w", h.Name, err)
	}
	defer inside.Close()
	link, err := inside.LinkByName(name)
	if _, absent := errors.AsType[netlink.LinkNotFoundError](err); absent {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s: finding %s: %w", h.Name, name, err)
	}
	return inside.LinkDel(link)
}

// SetCable connects or disconnects the cable of a host's link. The link stays up and loses its carrier.
func (l *Lab) SetCable(host, link string, plugged bool) error {
	cable, err := netlink.LinkByName(cableName(host, link))
	if err != nil {
		return fmt.Errorf("finding the cable of %s's %s: %w", host, link, err)
	}
	if plugged {
		return netlink.LinkSetUp(cable)
	}
	return netlink.LinkSetDown(cable)
}

func cableName(host, link string) string { return host + "-" + link }
