// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"encoding/binary"
	"net/netip"
	"time"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/nftables/ruleset"
	"github.com/smartnat/smartnat/pkg/traffic"
)

// maxRefused is the number of destinations of refused packets that are counted at a time. The kernel allocates 16 bytes for each of
// them with the set (nft_rhash_init), and the counters when they are needed.
const maxRefused = 1 << 15

// RefusedSet is a set of counters of packets that were refused for one reason.
type RefusedSet struct {
	Name   string
	Reason traffic.Reason
}

// RefusedSets returns the sets of counters of a table.
func RefusedSets() []RefusedSet {
	return []RefusedSet{{droppedSet, traffic.SourceNotAllowed}, {rejectedSet, traffic.NoEndpoints}}
}

// countRefused counts the packet by address, protocol and port. Only packets to a port of a Mapping get here, and each port that
// refuses some gets a counter. If the set is full, or the kernel cannot allocate a counter at once, the rule does nothing: the
// kernel has about a thousand in reserve (PCPU_EMPTY_POP_PAGES_HIGH in mm/percpu.c), and makes more in the background.
func (b *builder) countRefused(set string) ruleset.Rule {
	b.set(set, ruleset.Schema{Key: key(addressType(b.family), ruleset.ProtocolType, ruleset.PortType), Dynamic: true, Counters: true, Size: maxRefused})
	return rule("", frontendKey(b.family), exprs{ruleset.Update{Set: set, Milliseconds: uint64(ruleset.MaxTimeout / time.Millisecond)}})
}

// Destination returns what a key of a RefusedSet stands for. ok is not set if it is none.
func Destination(key string, family gateway.Family) (protocol gateway.Protocol, destination netip.AddrPort, ok bool) {
	n := 4 * int(words(family))
	if len(key) != n+8 {
		return "", netip.AddrPort{}, false
	}
	address, _ := netip.AddrFromSlice([]byte(key[:n]))
	for p, number := range protocolNumbers {
		if key[n] == number {
			protocol = p
		}
	}
	port := binary.BigEndian.Uint16([]byte(key[n+4:]))
	return protocol, netip.AddrPortFrom(address, port), protocol != ""
}
