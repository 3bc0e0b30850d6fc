// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Gateway2 is a second gateway with the links of Gateway, which AddPeer adds.
const Gateway2 = "gateway2"

// Addresses of a pair. The virtual ones belong to no host at first.
const (
	SyncAddress        = "10.99.0.1"
	SyncAddress2       = "10.99.0.2"
	Gateway2Address    = "10.10.0.3"
	Gateway2Address6   = "fd00:10::3"
	Gateway2External   = "198.51.100.21"
	Gateway2Externalv6 = "2001:db8:1::21"
	VirtualExternal    = "198.51.100.100"
	VirtualExternalv6  = "2001:db8:1::100"
	VirtualInside      = "10.10.0.100"
	VirtualInside6     = "fd00:10::100"
)

const syncLink segment = "sync"

// AddPeer adds Gateway2, and a sync link eth3 to both gateways.
func (l *Lab) AddPeer() error {
	if err := l.links.addBridge(syncLink); err != nil {
		return err
	}
	all := topology()
	spec := all[slices.IndexFunc(all, func(s hostSpec) bool { return s.name == Gateway })]
	spec.name, spec.links = Gateway2, []linkSpec{
		{"eth0", cluster, []string{Gateway2Address + "/24", Gateway2Address6 + "/64"}},
		{"eth1", outside1, []string{Gateway2External + "/24", Gateway2Externalv6 + "/64"}},
		{"eth2", outside2, []string{"203.0.113.21/24", "2001:db8:2::21/64"}},
		{"eth3", syncLink, []string{SyncAddress2 + "/24"}},
	}
	host, err := l.addHost(Gateway2)
	if err != nil {
		return err
	}
	inside, err := netlink.NewHandleAt(l.Host(Gateway).ns, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("%s: netlink: %w", Gateway, err)
	}
	defer inside.Close()
	return errors.Join(l.links.join(host, spec), l.links.connect(l.Host(Gateway), inside, linkSpec{"eth3", syncLink, []string{SyncAddress + "/24"}}),
		l.choosePeerPrograms(host))
}

func (l *Lab) choosePeerPrograms(host *Host) error {
	if l.binDir != "" {
		if err := host.addPath(l.binDir, false); err != nil {
			return err
		}
	}
	return l.chooseVariant(host)
}

// SetSilent cuts a link of a host in silence, or connects it again: its carrier stays, but no frame passes.
func (l *Lab) SetSilent(host, link string, silent bool) error {
	cable, err := netlink.LinkByName(cableName(host, link))
	if err != nil {
		return fmt.Errorf("%s: finding the cable of %s: %w", host, link, err)
	}
	if silent {
		return netlink.LinkSetNoMaster(cable)
	}
	i := slices.IndexFunc(l.links.cables, func(c netlink.Link) bool { return c.Attrs().Name == cable.Attrs().Name })
	if i < 0 {
		return fmt.Errorf("%s: %s is not a link of the lab", host, link)
	}
	return netlink.LinkSetMasterByIndex(cable, l.links.cables[i].Attrs().MasterIndex)
}

// SmartnatdOn runs a smartnatd command on a gateway and returns its output.
func (l *Lab) SmartnatdOn(ctx context.Context, host string, args ...string) (string, error) {
	program, err := l.program("smartnatd")
	if err != nil {
		return "", err
	}
	return l.Host(host).Exec(ctx, append([]string{program}, args...)...)
}
