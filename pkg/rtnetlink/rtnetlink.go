// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package rtnetlink

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/policyrouting"
)

// ipv6Metric is the metric that the kernel assigns to an IPv6 route without one (IP6_RT_PRIO_USER).
const ipv6Metric = 1024

// dumpAttempts is the maximum number of attempts for a dump that a change interrupts.
const dumpAttempts = 5

// Client reads and writes the routes and rules that own identifies. It keeps no socket open between calls.
type Client struct{ own gateway.Ownership }

// New returns a Client for the routes and rules that own identifies.
func New(own gateway.Ownership) *Client { return &Client{own: own} }

// conn holds the sockets of one call.
type conn struct {
	own gateway.Ownership
	*netlink.Handle
	// strict is a socket on which the kernel filters dumps.
	strict *netlink.Handle
}

func (c *Client) open() (*conn, error) {
	plain, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("opening a netlink socket: %w", err)
	}
	strict, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		plain.Close()
		return nil, fmt.Errorf("opening a netlink socket: %w", err)
	}
	// The kernel then sends only our routes instead of the full table of a BGP router. Kernels before 4.20 reject the option;
	// the library filters in any case.
	_ = strict.SetStrictCheck(true)
	return &conn{own: c.own, Handle: plain, strict: strict}, nil
}

func (c *conn) close() {
	c.Close()
	c.strict.Close()
}

// Observe returns our routes and rules of both families.
func (c *Client) Observe() (policyrouting.Set, error) {
	conn, err := c.open()
	if err != nil {
		return policyrouting.Set{}, err
	}
	defer conn.close()
	var set policyrouting.Set
	links := map[int]string{}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		rules, err := conn.rules(family)
		if err != nil {
			return policyrouting.Set{}, fmt.Errorf("reading the %s policy routing rules: %w", familyName(family), err)
		}
		set.Rules = append(set.Rules, rules...)
		routes, err := conn.routes(family, links)
		if err != nil {
			return policyrouting.Set{}, fmt.Errorf("reading the %s routes: %w", familyName(family), err)
		}
		set.Routes = append(set.Routes, routes...)
	}
	set.Sort()
	return set, nil
}

func (c *conn) rules(family int) ([]policyrouting.Rule, error) {
	all, err := dump(func() ([]netlink.Rule, error) { return c.RuleList(family) })
	if err != nil {
		return nil, err
	}
	var rules []policyrouting.Rule
	for _, r := range all {
		if !policyrouting.OurPriority(r.Priority, c.own) || int(r.Protocol) != c.own.RouteProtocol {
			continue
		}
		rule := policyrouting.Rule{
			IPv6:      family == netlink.FAMILY_V6,
			Priority:  r.Priority,
			Mark:      gateway.Mark{Value: r.Mark},
			Table:     r.Table,
			NoDefault: r.SuppressPrefixlen == 0,
			Protocol:  int(r.Protocol),
		}
		if r.Mask != nil {
			rule.Mark.Mask = *r.Mask
		}
		rules = append(rules, rule)
	}
	return rules, nil
}

func (c *conn) routes(family int, links map[int]string) ([]policyrouting.Route, error) {
	filter := &netlink.Route{Protocol: netlink.RouteProtocol(c.own.RouteProtocol)}
	all, err := dump(func() ([]netlink.Route, error) {
		return c.strict.RouteListFiltered(family, filter, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_PROTOCOL)
	})
	if err != nil {
		return nil, err
	}
	var routes []policyrouting.Route
	for _, r := range all {
		if !c.ourTable(r.Table) {
			continue
		}
		route, err := c.route(r, links)
		if err != nil {
			return nil, err
		}
		routes = append(routes, route)
	}
	return routes, nil
}

func (c *conn) ourTable(table int) bool {
	return table == policyrouting.MainTable ||
		c.own.Table(1) <= table && table <= c.own.Table(c.own.MaxUplinks())
}

func (c *conn) route(r netlink.Route, links map[int]string) (policyrouting.Route, error) {
	v6 := r.Family == netlink.FAMILY_V6
	destination, err := toPrefix(r.Dst, v6)
	if err != nil {
		return policyrouting.Route{}, err
	}
	route := policyrouting.Route{
		Table:       r.Table,
		Destination: destination,
		Metric:      r.Priority,
		OnLink:      r.Flags&unix.RTNH_F_ONLINK != 0,
		Protocol:    int(r.Protocol),
	}
	if v6 && r.Priority == ipv6Metric {
		route.Metric = 0
	}
	link := r.LinkIndex
	hops := []*netlink.NexthopInfo{{Gw: r.Gw, Via: r.Via}}
	if len(r.MultiPath) > 0 {
		hops = r.MultiPath
		link = r.MultiPath[0].LinkIndex
	}
	for _, hop := range hops {
		ip := hop.Gw
		if via, ok := hop.Via.(*netlink.Via); ok && via != nil {
			ip = via.Addr
		}
		if gw, ok := netip.AddrFromSlice(ip); ok {
			route.Gateways = append(route.Gateways, gw)
		}
		route.OnLink = route.OnLink || hop.Flags&unix.RTNH_F_ONLINK != 0
	}
	slices.SortFunc(route.Gateways, netip.Addr.Compare)
	// Routes in the main table name only gateways; the kernel chooses the link.
	if r.Table == policyrouting.MainTable && len(route.Gateways) > 0 {
		return route, nil
	}
	route.Link, err = c.linkName(link, links)
	return route, err
}

func (c *conn) linkName(index int, known map[int]string) (string, error) {
	if name, ok := known[index]; ok || index == 0 {
		return name, nil
	}
	link, err := c.LinkByIndex(index)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		// The link was removed after the routes were read; its routes will disappear too.
		return fmt.Sprintf("if%d", index), nil
	}
	if err != nil {
		return "", fmt.Errorf("finding the link with index %d: %w", index, err)
	}
	known[index] = link.Attrs().Name
	return known[index], nil
}

// dump repeats a dump that the kernel reports as inconsistent. It treats a family that the kernel lacks as empty.
func dump[T any](list func() ([]T, error)) ([]T, error) {
	var items []T
	var err error
	for range dumpAttempts {
		items, err = list()
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	if errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil, nil
	}
	return items, err
}

func toPrefix(n *net.IPNet, v6 bool) (netip.Prefix, error) {
	if n == nil {
		return netip.Prefix{}, errors.New("a route without a destination")
	}
	addr, ok := netip.AddrFromSlice(n.IP)
	if !ok {
		return netip.Prefix{}, fmt.Errorf("%v is not an address", n.IP)
	}
	// The library returns 0.0.0.0 of the default route as 16 bytes.
	if !v6 {
		addr = addr.Unmap()
	}
	bits, _ := n.Mask.Size()
	prefix := netip.PrefixFrom(addr, bits)
	if !prefix.IsValid() {
		return netip.Prefix{}, fmt.Errorf("%v is not a network", n)
	}
	return prefix, nil
}

func familyName(family int) string {
	if family == netlink.FAMILY_V6 {
		return "IPv6"
	}
	return "IPv4"
}
