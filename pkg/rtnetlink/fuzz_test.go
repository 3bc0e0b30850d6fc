// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package rtnetlink

import (
	"net"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/policyrouting"
)

// FuzzRoute feeds arbitrary kernel routes: the conversion must not panic, and must return an error or a destination that can
// be compared and removed.
func FuzzRoute(f *testing.F) {
	v4, v6 := []byte{10, 96, 0, 0}, net.ParseIP("fd00:96::")
	for _, seed := range []struct {
		family, table, link         int
		destination, mask, gw1, gw2 []byte
	}{
		{netlink.FAMILY_V4, policyrouting.MainTable, 1, v4, net.CIDRMask(16, 32), v4, v4},
		{netlink.FAMILY_V6, 7380, 2, v6, net.CIDRMask(64, 128), v6, nil},
		{netlink.FAMILY_V4, 7380, 1, net.IPv4zero, net.CIDRMask(0, 32), v4, v6},
		{netlink.FAMILY_V4, 7380, 0, nil, nil, nil, nil},
		{netlink.FAMILY_V6, 7380, 1, v4, net.CIDRMask(64, 128), []byte{1}, nil},
		{0, 0, 3, []byte{1, 2, 3}, []byte{0xff, 0, 0xff}, v6[:5], v6},
	} {
		f.Add(seed.family, seed.table, uint8(seed.link), seed.destination, seed.mask, seed.gw1, seed.gw2)
	}
	c := &conn{own: gateway.DefaultOwnership()}
	f.Fuzz(func(t *testing.T, family, table int, link uint8, destination, mask, gw1, gw2 []byte) {
		known := map[int]string{0: "", 1: "eth1", 2: "eth2", 3: "eth3"}
		r := netlink.Route{Family: family, Table: table, LinkIndex: int(link % 4), Gw: gw1}
		if destination != nil {
			r.Dst = &net.IPNet{IP: destination, Mask: mask}
		}
		if len(gw2) > 0 {
			r.MultiPath = []*netlink.NexthopInfo{{Gw: gw1, LinkIndex: r.LinkIndex}, {Gw: gw2, LinkIndex: int((link + 1) % 4)}}
		}
		route, err := c.route(r, known)
		if err == nil && !route.Destination.IsValid() {
			t.Errorf("destination %v out of %v", route.Destination, r.Dst)
		}
		for _, gateway := range route.Gateways {
			if !gateway.IsValid() {
				t.Errorf("gateways %v", route.Gateways)
			}
		}
		_ = policyrouting.Diff(policyrouting.Set{Routes: []policyrouting.Route{route}}, policyrouting.Set{})
	})
}
