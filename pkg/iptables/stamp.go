// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package iptables

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"

	"github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/smartnat/smartnat/pkg/netfilter"
)

// Stamp is a number that becomes another one when somebody writes rules of the family, and is read at nearly no cost. Two
// that are equal do not prove that nothing was written: see Digest.
//
// nf_tables counts the changes of the whole network namespace. The legacy tables tell their sizes: a rule that was
// replaced by another of the same size is not seen.
func (r *Runner) Stamp(family netfilter.Family) (uint64, error) {
	if _, err := r.program(family); err != nil {
		return 0, err
	}
	if r.backend == NFTables {
		return generation()
	}
	return legacyStamp(family, false)
}

// Digest is a Stamp that sees every change of a rule. Legacy tables are read whole for it, which is still far cheaper than
// to Save them.
func (r *Runner) Digest(family netfilter.Family) (uint64, error) {
	if _, err := r.program(family); err != nil {
		return 0, err
	}
	if r.backend == NFTables {
		return generation()
	}
	return legacyStamp(family, true)
}

// Alone reports whether a Restore of as many tables is for sure all that was written between two Stamps. The legacy tables
// cannot tell.
func (r *Runner) Alone(before, after uint64, tables int) bool {
	return r.backend == NFTables && uint32(after-before) == uint32(tables)
}

// generation is how often the rules of nf_tables were changed, modulo 2^32.
func generation() (uint64, error) {
	request := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETGEN, 0)
	request.AddData(&nl.Nfgenmsg{NfgenFamily: unix.AF_UNSPEC, Version: nl.NFNETLINK_V0})
	answers, err := request.Execute(unix.NETLINK_NETFILTER, 0)
	if err != nil {
		return 0, fmt.Errorf("asking for the generation of nf_tables: %w", err)
	}
	for _, answer := range answers {
		if id, found := parseGeneration(answer); found {
			return uint64(id), nil
		}
	}
	return 0, errors.New("asking for the generation of nf_tables: the kernel does not say it")
}

func parseGeneration(answer []byte) (uint32, bool) {
	if len(answer) < nl.SizeofNfgenmsg {
		return 0, false
	}
	attributes, err := netlink.UnmarshalAttributes(answer[nl.SizeofNfgenmsg:])
	if err != nil {
		return 0, false
	}
	for _, a := range attributes {
		if a.Type&nl.NLA_TYPE_MASK == unix.NFTA_GEN_ID && len(a.Data) == 4 {
			return binary.BigEndian.Uint32(a.Data), true
		}
	}
	return 0, false
}

// seed is the process's own: Stamps are compared with each other alone.
var seed = maphash.MakeSeed()

func legacyStamp(family netfilter.Family, whole bool) (uint64, error) {
	xt, err := openXTables(family)
	if err != nil {
		return 0, err
	}
	defer xt.close()
	var hash maphash.Hash
	hash.SetSeed(seed)
	for _, table := range tables {
		if err := xt.hash(&hash, table, whole); err != nil {
			return 0, fmt.Errorf("looking at the legacy table %s of IPv%d: %w", table, family, err)
		}
	}
	return hash.Sum64(), nil
}

// tables are those that we write.
var tables = []string{"mangle", "filter", "nat"}
