// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package host

import (
	"os"
	"strings"

	"github.com/vishvananda/netlink"

	"github.com/smartnat/smartnat/pkg/gateway"
)

// follow sets the names of masters and parents. Both slices have the same order.
func follow(links []gateway.Link, observed []netlink.Link, names map[int]string) {
	for i, l := range observed {
		a := l.Attrs()
		links[i].Master = names[a.MasterIndex]
		switch l.Type() {
		case "vlan", "macvlan", "macvtap", "ipvlan", "ipvtap":
			// The index of a parent in another network namespace means nothing here.
			if a.NetNsID < 0 {
				links[i].Parent = names[a.ParentIndex]
			}
		}
	}
}

// forwarding reports whether the host forwards for other programs, and whether bridges pass their frames to netfilter. If a
// parameter cannot be read, it assumes the value for which the boundary is stricter.
func (h *Host) forwarding(host *gateway.Host) {
	before := h.before
	if before == nil {
		before = parameter
	}
	is := func(read func(string) (string, error), key string) bool {
		value, err := read(key)
		return err == nil && value == "1"
	}
	host.ForwardingOwned = gateway.Families{IPv4: !is(before, "net/ipv4/ip_forward"), IPv6: !is(before, "net/ipv6/conf/all/forwarding")}
	for _, l := range host.Links {
		if l.Kind != "bridge" {
			continue
		}
		host.BridgeNetfilter = gateway.Families{
			IPv4: is(parameter, "net/bridge/bridge-nf-call-iptables"), IPv6: is(parameter, "net/bridge/bridge-nf-call-ip6tables"),
		}
		host.Physdev = host.BridgeNetfilter != gateway.Families{} && (h.physdev == nil || h.physdev())
		return
	}
}

func parameter(key string) (string, error) {
	value, err := os.ReadFile("/proc/sys/" + key)
	return strings.TrimSpace(string(value)), err
}
