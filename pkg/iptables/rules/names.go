// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"
	"fmt"
	"iter"
	"net/netip"
	"strings"

	"github.com/smartnat/smartnat/pkg/gateway"
)

// The kernel allows chain names of 28 characters. A prefix may take 12, which leaves 16.

// protocolLetters identify the protocols in chain names.
var protocolLetters = map[gateway.Protocol]string{gateway.TCP: "T", gateway.UDP: "U", gateway.SCTP: "S"}

// portChain returns the name for a block of ports: TC0000201 for all ports, TC00002011F40I for the ports from 0x1F40 after
// eight halvings. The names sort in the order of the tree.
func portChain(f gateway.Frontend, k block) string {
	name := protocolLetters[f.Protocol] + addressName(f.Address)
	if k == allPorts {
		return name
	}
	return fmt.Sprintf("%s%04X%c", name, k.start, 'A'+allPorts.bits-k.bits)
}

// backendChain returns the name for one frontend: BT0A0B0C0D1F90.
func backendChain(f gateway.Frontend) string {
	return fmt.Sprintf("B%s%s%04X", protocolLetters[f.Protocol], addressName(f.Address), f.Ports.First)
}

// groupChain returns the name for a group of a frontend's backends, by its start: GMQXBDP25K2F4000.
func groupChain(f gateway.Frontend, start uint32) string {
	return fmt.Sprintf("G%s%05X", digest([]byte(backendChain(f)), 10), start)
}

// prefixChain returns the name for a prefix in a tree: A0A0B0C0018.
func prefixChain(tree string, p netip.Prefix) string {
	return fmt.Sprintf("%s%s%02X", tree, addressName(p.Addr()), p.Bits())
}

// masqueradeTo returns the name for a source of masqueraded connections: N0A0B0C64.
func masqueradeTo(source netip.Addr) string { return "N" + addressName(source) }

// setName returns the name of the set of a Mapping's sources.
func setName(prefix, owner string, family gateway.Family) string {
	return fmt.Sprintf("%s%s-%d", prefix, digest([]byte(owner), 10), family)
}

// sourceChain returns the name for a list of sources.
func sourceChain(sources []netip.Prefix) string {
	var b []byte
	for _, s := range sources {
		b = append(s.AppendTo(b), ' ')
	}
	return "SRC-" + digest(b, 12)
}

// addressName returns an IPv4 address as 8 hexadecimal digits, and an IPv6 address as 10 characters of its digest.
func addressName(a netip.Addr) string {
	if a.Is4() {
		return strings.ToUpper(hex.EncodeToString(a.AsSlice()))
	}
	return digest(a.AsSlice(), 10)
}

func digest(b []byte, length int) string {
	sum := sha256.Sum256(b)
	return base32.StdEncoding.EncodeToString(sum[:])[:length]
}

// runs splits forwards into the longest runs in which all neighbours are alike.
func runs(forwards []*gateway.Forward, alike func(x, y *gateway.Forward) bool) iter.Seq[[]*gateway.Forward] {
	return func(yield func([]*gateway.Forward) bool) {
		start := 0
		for i := range forwards {
			if i+1 < len(forwards) && alike(forwards[i], forwards[i+1]) {
				continue
			}
			if !yield(forwards[start : i+1]) {
				return
			}
			start = i + 1
		}
	}
}
