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

// follow names the masters and parents of links, which are in the order of what was observed.
func follow(links []gateway.Link, observed []netlink.Link, names map[int]string) {
	for i, l := range observed {
		a := l.Attrs()
		links[i].Master = names[a.MasterIndex]
		switch l.Type() {
		case "vlan", "macvlan", "macvtap", "ipvlan", "ipvtap":
			// A parent in another network namespace has a number that means nothing here.
			if a.NetNsID < 0 {
				links[i].Parent = names[a.ParentIndex]
			}
		}
	}
}

// forwarding finds out who has the host forward, and whether bridges give netfilter their frames. What cannot be read is taken
// for what needs the boundary more.
func (h *Host) forwarding(host *gateway.Host) {
	before := h.before
	if before == nil {
		before = parameter
	}
	is := func(read func(string) (string, error), key string) bool {
		value, err := read(key)
		return err == nil && value == "1"
	}
	host.Opened = gateway.Families{IPv4: !is(before, "net/ipv4/ip_forward"), IPv6: !is(before, "net/ipv6/conf/all/forwarding")}
	for _, l := range host.Links {
		if l.Kind != "bridge" {
			continue
		}
		host.Switched = gateway.Families{
			IPv4: is(parameter, "net/bridge/bridge-nf-call-iptables"), IPv6: is(parameter, "net/bridge/bridge-nf-call-ip6tables"),
		}
		host.Physdev = host.Switched != gateway.Families{} && (h.physdev == nil || h.physdev())
		return
	}
}

func parameter(key string) (string, error) {
	value, err := os.ReadFile("/proc/sys/" + key)
	return strings.TrimSpace(string(value)), err
}
