// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package program

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"os"
	"slices"
	"strings"

	"github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/smartnat/smartnat/pkg/gateway"
)

// Stamp returns a number that changes when any process writes rules of the family. It is very cheap. Equal stamps do not
// prove that nothing was written; see Digest.
//
// nf_tables counts the transactions of the whole network namespace. For legacy the stamp covers the sizes of the tables, so
// it misses a rule that was replaced by one of the same size.
func (r *Runner) Stamp(family gateway.Family) (uint64, error) {
	if _, err := r.program(family); err != nil {
		return 0, err
	}
	if r.variant == NFTables {
		return generation()
	}
	return legacyStamp(family, false)
}

// Digest is a Stamp that changes with every change of a rule. For legacy it reads the whole tables, which is still much
// cheaper than Save.
func (r *Runner) Digest(family gateway.Family) (uint64, error) {
	if _, err := r.program(family); err != nil {
		return 0, err
	}
	if r.variant == NFTables {
		return generation()
	}
	return legacyStamp(family, true)
}

// IsOnlyWrite reports whether a Restore of the given number of tables is certain to be the only write between two Stamps. It is
// always false for legacy.
func (r *Runner) IsOnlyWrite(before, after uint64, tables int) bool {
	return r.variant == NFTables && uint32(after-before) == uint32(tables)
}

// generation returns the number of nf_tables transactions, modulo 2^32.
func generation() (uint64, error) {
	request := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETGEN, 0)
	request.AddData(&nl.Nfgenmsg{NfgenFamily: unix.AF_UNSPEC, Version: nl.NFNETLINK_V0})
	answers, err := request.Execute(unix.NETLINK_NETFILTER, 0)
	if err != nil {
		return 0, fmt.Errorf("reading the generation of nf_tables: %w", err)
	}
	for _, answer := range answers {
		if id, found := parseGeneration(answer); found {
			return uint64(id), nil
		}
	}
	return 0, errors.New("reading the generation of nf_tables: it is missing in the kernel's answer")
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

// seed is random per process, because Stamps are only compared within it.
var seed = maphash.MakeSeed()

func legacyStamp(family gateway.Family, whole bool) (uint64, error) {
	xt, err := openXTables(family)
	if err != nil {
		return 0, err
	}
	defer xt.close()
	var hash maphash.Hash
	hash.SetSeed(seed)
	for _, table := range written(family) {
		if err := xt.hash(&hash, table, whole); err != nil {
			return 0, fmt.Errorf("reading the legacy table %s of IPv%d: %w", table, family, err)
		}
	}
	return hash.Sum64(), nil
}

// written returns the tables that we write. The table raw counts only where it exists already: a look at it would make one, which
// each packet then passes.
func written(family gateway.Family) []string {
	tables := []string{"mangle", "filter", "nat"}
	names, err := os.ReadFile(tableNames[family])
	if err == nil && slices.Contains(strings.Fields(string(names)), "raw") {
		tables = append(tables, "raw")
	}
	return tables
}

// tableNames list the legacy tables that exist in the network namespace.
var tableNames = map[gateway.Family]string{
	gateway.IPv4: "/proc/thread-self/net/ip_tables_names", gateway.IPv6: "/proc/thread-self/net/ip6_tables_names",
}
