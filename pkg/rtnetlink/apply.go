// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package rtnetlink

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/smartnat/smartnat/pkg/policyrouting"
)

// Apply makes the changes one by one, continues after failures, and returns the changes that are now in effect. A change that
// is already in effect is not an error.
func (c *Client) Apply(changes policyrouting.Changes) (policyrouting.Changes, error) {
	conn, err := c.open()
	if err != nil {
		return policyrouting.Changes{}, err
	}
	defer conn.close()
	var done policyrouting.Changes
	var errs []error
	done.AddRoutes = each(changes.AddRoutes, conn.addRoute, "adding the route", &errs)
	done.ReplaceRoutes = each(changes.ReplaceRoutes, conn.replaceRoute, "replacing the route", &errs)
	done.AddRules = each(changes.AddRules, conn.addRule, "adding the rule", &errs)
	done.DeleteRules = each(changes.DeleteRules, conn.deleteRule, "deleting the rule", &errs)
	done.DeleteRoutes = each(changes.DeleteRoutes, conn.deleteRoute, "deleting the route", &errs)
	return done, errors.Join(errs...)
}

func each[T fmt.Stringer](items []T, do func(T) error, doing string, errs *[]error) []T {
	var done []T
	for _, item := range items {
		if err := do(item); err != nil {
			*errs = append(*errs, fmt.Errorf("%s (%s): %w", doing, item, err))
			continue
		}
		done = append(done, item)
	}
	return done
}

func (c *conn) addRule(r policyrouting.Rule) error {
	err := c.RuleAdd(toRule(r))
	if errors.Is(err, unix.EEXIST) { // the kernel compares all attributes, including the protocol
		return nil
	}
	return err
}

func (c *conn) deleteRule(r policyrouting.Rule) error {
	err := c.RuleDel(toRule(r))
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

func toRule(r policyrouting.Rule) *netlink.Rule {
	rule := netlink.NewRule()
	rule.Family = netlink.FAMILY_V4
	if r.IPv6 {
		rule.Family = netlink.FAMILY_V6
	}
	rule.Priority = r.Priority
	rule.Mark = r.Mark.Value
	rule.Mask = &r.Mark.Mask
	rule.Table = r.Table
	if r.NoDefault {
		rule.SuppressPrefixlen = 0
	}
	rule.Protocol = uint8(r.Protocol)
	return rule
}

func (c *conn) addRoute(r policyrouting.Route) error {
	route, err := c.toRoute(r)
	if err != nil {
		return err
	}
	err = c.RouteAdd(route)
	if errors.Is(err, unix.EEXIST) {
		return c.replaceRoute(r)
	}
	return explain(err, r)
}

// replaceRoute replaces a route without a gap. The kernel replaces any route with the same destination and metric, so
// replaceRoute first checks that the route is ours.
func (c *conn) replaceRoute(r policyrouting.Route) error {
	route, err := c.toRoute(r)
	if err != nil {
		return err
	}
	filter := &netlink.Route{Table: r.Table}
	family := netlink.FAMILY_V4
	if r.Destination.Addr().Is6() {
		family = netlink.FAMILY_V6
	}
	present, err := dump(func() ([]netlink.Route, error) {
		return c.strict.RouteListFiltered(family, filter, netlink.RT_FILTER_TABLE)
	})
	if err != nil && !errors.Is(err, unix.ENOENT) { // ENOENT: the table is empty
		return fmt.Errorf("reading table %d: %w", r.Table, err)
	}
	metric := r.Metric
	if metric == 0 && family == netlink.FAMILY_V6 {
		metric = ipv6Metric
	}
	for _, p := range present {
		destination, err := toPrefix(p.Dst, family == netlink.FAMILY_V6)
		if err != nil || destination != r.Destination || p.Priority != metric || p.Table != r.Table {
			continue
		}
		if int(p.Protocol) != r.Protocol {
			return fmt.Errorf("table %d has a route to %s that is not ours (protocol %s): remove it, or remove the destination from the config file",
				r.Table, r.Destination, p.Protocol)
		}
	}
	return explain(c.RouteReplace(route), r)
}

func (c *conn) deleteRoute(r policyrouting.Route) error {
	route, err := c.toRoute(r)
	if errors.As(err, &netlink.LinkNotFoundError{}) { // the routes disappeared with their link
		return nil
	}
	if err != nil {
		return err
	}
	route.Scope = netlink.SCOPE_NOWHERE // any
	err = c.RouteDel(route)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) {
		return nil
	}
	return err
}

func (c *conn) toRoute(r policyrouting.Route) (*netlink.Route, error) {
	route := &netlink.Route{
		Table:    r.Table,
		Dst:      toIPNet(r.Destination),
		Priority: r.Metric,
		Protocol: netlink.RouteProtocol(r.Protocol),
	}
	flags := 0
	if r.OnLink {
		flags = unix.RTNH_F_ONLINK
	}
	index := 0
	if r.Link != "" {
		link, err := c.LinkByName(r.Link)
		if err != nil {
			return nil, fmt.Errorf("finding the link %s: %w", r.Link, err)
		}
		index = link.Attrs().Index
	}
	switch len(r.Gateways) {
	case 0:
		route.LinkIndex = index
		if r.Destination.Addr().Is4() {
			route.Scope = netlink.SCOPE_LINK
		}
	case 1:
		route.LinkIndex, route.Flags = index, flags
		if gw := r.Gateways[0]; gw.Is6() && r.Destination.Addr().Is4() {
			route.Via = &netlink.Via{AddrFamily: unix.AF_INET6, Addr: gw.AsSlice()}
		} else {
			route.Gw = gw.AsSlice()
		}
	default:
		for _, gw := range r.Gateways {
			route.MultiPath = append(route.MultiPath, &netlink.NexthopInfo{LinkIndex: index, Gw: gw.AsSlice(), Flags: flags})
		}
	}
	return route, nil
}

func toIPNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// explain adds to the kernel's error what it means for the route.
func explain(err error, r policyrouting.Route) error {
	switch {
	case errors.Is(err, unix.ENETUNREACH), errors.Is(err, unix.EHOSTUNREACH), errors.Is(err, unix.EINVAL) && len(r.Gateways) > 0:
		return fmt.Errorf("%w: no link of this host reaches the gateway %v", err, r.Gateways)
	case errors.Is(err, unix.ENETDOWN):
		return fmt.Errorf("%w: the link is down", err)
	}
	return err
}
