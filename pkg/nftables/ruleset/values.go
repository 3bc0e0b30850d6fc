// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package ruleset

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// typeNames are the names of datatypes in declarations (nft(8), "Data types").
var typeNames = [...]string{
	IPv4Type: "ipv4_addr", IPv6Type: "ipv6_addr", ProtocolType: "inet_proto", PortType: "inet_service", MarkType: "mark",
	LinkType: "ifname", VerdictType: "verdict",
}

// typeOf returns the declaration of a key and the value. nft(8) has no name for the type of a random number, so a map that a
// rule looks up by one is declared by expressions.
func (s *speller) typeOf(set *Set) string {
	text, random := "type ", s.isRandom(set)
	if random {
		text = "typeof "
	}
	text += s.join(set.Key, random)
	switch {
	case s.joined[set.Name] != nil:
		text += " : " + typeNames[VerdictType]
	case set.IsMap():
		text += " : " + s.join(set.Data, random)
	}
	return text
}

// isRandom reports whether the keys of a set contain random numbers. The last part of a concatenation may be one, but no mark.
func (s *speller) isRandom(set *Set) bool {
	return s.random[set.Name] || set.Concatenated() && slices.Contains(set.Key[:], MarkType)
}

// join returns the names of datatypes, or expressions of these types.
func (s *speller) join(parts [4]Datatype, expressions bool) string {
	var names []string
	for _, part := range parts {
		if part == NoType {
			break
		}
		name := typeNames[part]
		if expressions {
			switch part {
			case IPv4Type:
				name = "ip daddr"
			case IPv6Type:
				name = "ip6 daddr"
			case ProtocolType:
				name = "meta l4proto"
			case PortType:
				name = "th dport"
			case MarkType:
				name = "numgen random mod 2"
			case LinkType:
				name = "iifname"
			}
		}
		names = append(names, name)
	}
	return strings.Join(names, " . ")
}

// spellKey returns a key or a value, or a range of keys if last is not empty. Each part of a concatenation has a range.
func spellKey(parts [4]Datatype, key, last string, random bool) (string, error) {
	var text []string
	for _, part := range parts {
		if part == NoType {
			break
		}
		n := part.Padded()
		if len(key) < part.Size() || last != "" && len(last) < part.Size() {
			return "", fmt.Errorf("the element %x is shorter than its type", key)
		}
		one, err := spell(part, key[:part.Size()])
		if random && part == MarkType {
			one = strconv.FormatUint(number(key[:4]), 10)
		}
		if err != nil {
			return "", err
		}
		key = key[min(n, len(key)):]
		if last != "" {
			end, err := spell(part, last[:part.Size()])
			if err != nil {
				return "", err
			}
			last = last[min(n, len(last)):]
			if end != one {
				one += "-" + end
			}
		}
		text = append(text, one)
	}
	return strings.Join(text, " . "), nil
}

// spell returns a constant.
func spell(t Datatype, data string) (string, error) {
	switch t {
	case IPv4Type, IPv6Type:
		if a, ok := netip.AddrFromSlice([]byte(data)); ok {
			return a.String(), nil
		}
	case ProtocolType:
		if len(data) == 1 {
			return protocolName(data[0]), nil
		}
	case PortType:
		if len(data) == 2 {
			return strconv.Itoa(int(binary.BigEndian.Uint16([]byte(data)))), nil
		}
	case MarkType:
		if len(data) == 4 {
			return fmt.Sprintf("%#x", number(data)), nil
		}
	case LinkType:
		return spellLink(data)
	}
	return "", fmt.Errorf("%x is no value of the type %s", data, typeNames[t])
}

// protocolName returns the name of a protocol if nft(8) knows it without /etc/protocols.
func protocolName(number byte) string {
	switch number {
	case 6:
		return "tcp"
	case 17:
		return "udp"
	case 132:
		return "sctp"
	}
	return strconv.Itoa(int(number))
}

// spellLink quotes the name of a link. A quoted name ends at the next quote, and an asterisk matches any end.
func spellLink(data string) (string, error) {
	name := strings.TrimRight(data, "\x00")
	if name == "" || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r == 0x7f || strings.ContainsRune(`"*\`, r) }) {
		return "", fmt.Errorf("nft(8) cannot spell the link %q", name)
	}
	return `"` + name + `"`, nil
}

func spellVerdict(v Verdict) (string, error) {
	switch v.Code {
	case Drop:
		return "drop", nil
	case Accept:
		return "accept", nil
	case Continue:
		return "continue", nil
	case Return:
		return "return", nil
	case Jump:
		return "jump " + v.Chain, identifier("chain", v.Chain)
	case Goto:
		return "goto " + v.Chain, identifier("chain", v.Chain)
	}
	return fmt.Sprintf("verdict %d", v.Code), fmt.Errorf("unknown verdict %d", v.Code)
}

// flag is a bit with a name.
type flag struct {
	bit  uint32
	name string
}

var (
	stateFlags = []flag{
		{StateInvalid, "invalid"}, {StateEstablished, "established"}, {StateRelated, "related"}, {StateNew, "new"},
		{StateUntracked, "untracked"},
	}
	statusFlags = []flag{{StatusExpected, "expected"}, {StatusAssured, "assured"}, {StatusSNAT, "snat"}, {StatusDNAT, "dnat"}}
	tcpFlags    = []flag{{1, "fin"}, {2, "syn"}, {4, "rst"}, {8, "psh"}, {16, "ack"}, {32, "urg"}, {64, "ecn"}, {128, "cwr"}}
)

// spellFlags joins the names of the bits, and reports whether each has one.
func spellFlags(flags []flag, bits uint32, separator string) (string, bool) {
	var names []string
	for _, f := range flags {
		if bits&f.bit != 0 {
			names = append(names, f.name)
			bits &^= f.bit
		}
	}
	return strings.Join(names, separator), bits == 0 && len(names) > 0
}
