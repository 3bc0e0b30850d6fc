// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package netlink

import (
	"slices"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/smartnat/smartnat/pkg/nftables/ruleset"
)

// These constants are missing in golang.org/x/sys (linux/netfilter/nf_tables.h, nft_flowtable_attributes and those that follow).
const (
	flowtableTable        = 1 // NFTA_FLOWTABLE_TABLE
	flowtableName         = 2 // NFTA_FLOWTABLE_NAME
	flowtableHook         = 3 // NFTA_FLOWTABLE_HOOK
	flowtableFlags        = 7 // NFTA_FLOWTABLE_FLAGS
	flowtableHookNumber   = 1 // NFTA_FLOWTABLE_HOOK_NUM
	flowtableHookPriority = 2 // NFTA_FLOWTABLE_HOOK_PRIORITY
	flowtableHookDevices  = 3 // NFTA_FLOWTABLE_HOOK_DEVS
	deviceName            = 1 // NFTA_DEVICE_NAME

	flowtableCounter = 0x2 // NFT_FLOWTABLE_COUNTER
	ingressHook      = 0   // NF_NETDEV_INGRESS
)

// AddFlowtable creates a Flowtable. The kernel refuses links that do not exist.
func (t *Transaction) AddFlowtable(f ruleset.Flowtable) {
	t.add("flowtable "+f.Name, unix.NFT_MSG_NEWFLOWTABLE, netlink.Create|netlink.Excl, func(e *encoder) {
		e.text(flowtableTable, t.table)
		e.text(flowtableName, f.Name)
		e.nested(flowtableHook, func() {
			e.number(flowtableHookNumber, ingressHook)
			e.number(flowtableHookPriority, uint32(f.Priority))
			e.nested(flowtableHookDevices, func() {
				for _, link := range f.Links {
					e.text(deviceName, link)
				}
			})
		})
		if f.Counters {
			e.number(flowtableFlags, flowtableCounter)
		}
	})
}

// DeleteFlowtable deletes a Flowtable that no rule uses. Its flows go on by the rules.
func (t *Transaction) DeleteFlowtable(name string) {
	t.add("flowtable "+name, unix.NFT_MSG_DELFLOWTABLE, 0, func(e *encoder) {
		e.text(flowtableTable, t.table)
		e.text(flowtableName, name)
	})
}

// flowtableOf decodes a Flowtable, and the table that it belongs to.
func flowtableOf(answer netlink.Message) (table string, f ruleset.Flowtable, err error) {
	err = attributes(answer, func(d *netlink.AttributeDecoder) {
		switch d.Type() {
		case flowtableTable:
			table = d.String()
		case flowtableName:
			f.Name = d.String()
		case flowtableFlags:
			f.Counters = d.Uint32()&flowtableCounter != 0
		case flowtableHook:
			nested(d, func(d *netlink.AttributeDecoder) {
				switch d.Type() {
				case flowtableHookPriority:
					f.Priority = int32(d.Uint32())
				case flowtableHookDevices:
					nested(d, func(d *netlink.AttributeDecoder) { f.Links = append(f.Links, d.String()) })
				}
			})
		}
	})
	slices.Sort(f.Links)
	return table, f, err
}
