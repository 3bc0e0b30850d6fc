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
	"github.com/smartnat/smartnat/pkg/netfilter"
)

// The kernel allows chain names of 28 characters, and a prefix may take 12 of them: 16 are left.

// protocolLetters name the protocols within chain names.
var protocolLetters = map[gateway.Protocol]string{gateway.TCP: "T", gateway.UDP: "U", gateway.SCTP: "S"}

// portChain names the chain of a block of ports: TC0000201 that of all ports, TC00002011F40I the one of those from 0x1F40 on
// after all have been halved eight times. In the order of their names, chains come as they stand in their tree.
func portChain(f gateway.Frontend, k block) string {
	name := protocolLetters[f.Protocol] + addressName(f.Address)
	if k == allPorts {
		return name
	}
	return fmt.Sprintf("%s%04X%c", name, k.start, 'A'+allPorts.bits-k.bits)
}

// backendChain names the chain of one frontend: BT0A0B0C0D1F90.
func backendChain(f gateway.Frontend) string {
	return fmt.Sprintf("B%s%s%04X", protocolLetters[f.Protocol], addressName(f.Address), f.Ports.First)
}

// groupChain names the chain of some of a frontend's backends, by where they start: GMQXBDP25K2F4000.
func groupChain(f gateway.Frontend, start uint32) string {
	return fmt.Sprintf("G%s%05X", digest([]byte(backendChain(f)), 10), start)
}

// prefixChain names the chain of a prefix within a tree: A0A0B0C0018.
func prefixChain(tree string, p netip.Prefix) string {
	return fmt.Sprintf("%s%s%02X", tree, addressName(p.Addr()), p.Bits())
}

// setName names the set of a Mapping's sources.
func setName(prefix, owner string, family netfilter.Family) string {
	return fmt.Sprintf("%s%s-%d", prefix, digest([]byte(owner), 10), family)
}

// sourceChain names the chain of a set of sources.
func sourceChain(sources []netip.Prefix) string {
	var b []byte
	for _, s := range sources {
		b = append(s.AppendTo(b), ' ')
	}
	return "SRC-" + digest(b, 12)
}

// addressName is an IPv4 address as it is, in 8 digits, and of an IPv6 address 10 characters of its digest.
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

// runs cuts forwards into the longest runs of neighbours that are alike.
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
