// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package ruleset

import (
	"errors"
	"fmt"
	"strings"

	"github.com/smartnat/smartnat/pkg/gateway"
)

func (s *speller) payload(e Payload) term {
	name, address := "ip", IPv4Type
	offsets := [2]uint32{12, 16} // RFC 791, 3.1
	if s.family == gateway.IPv6 {
		name, address = "ip6", IPv6Type
		offsets = [2]uint32{8, 24} // RFC 8200, 3
	}
	switch e {
	case Payload{NetworkHeader, offsets[0], uint32(address.Size()), e.To}:
		return term{text: name + " saddr", typ: address}
	case Payload{NetworkHeader, offsets[1], uint32(address.Size()), e.To}:
		return term{text: name + " daddr", typ: address}
	case Payload{TransportHeader, 0, 2, e.To}:
		return term{text: "th sport", typ: PortType}
	case Payload{TransportHeader, 2, 2, e.To}:
		return term{text: "th dport", typ: PortType}
	case Payload{TransportHeader, 13, 1, e.To}:
		return term{text: "tcp flags", class: tcpFlagsClass}
	}
	base := map[PayloadBase]string{NetworkHeader: "nh", TransportHeader: "th"}[e.Base]
	if base == "" {
		base = fmt.Sprintf("base%d", e.Base)
	}
	return term{text: fmt.Sprintf("@%s,%d,%d", base, 8*e.Offset, 8*e.Len), class: hexClass}
}

func metaTerm(key MetaKey) term {
	switch key {
	case MetaMark:
		return term{text: "meta mark", class: hexClass, typ: MarkType}
	case MetaIIFName:
		return term{text: "iifname", typ: LinkType}
	case MetaOIFName:
		return term{text: "oifname", typ: LinkType}
	case MetaL4Proto:
		return term{text: "meta l4proto", typ: ProtocolType}
	}
	return term{text: fmt.Sprintf("meta key%d", key), class: hexClass}
}

func ctTerm(key CtKey) term {
	switch key {
	case CtState:
		return term{text: "ct state", class: stateClass}
	case CtDirection:
		return term{text: "ct direction", class: directionClass}
	case CtStatus:
		return term{text: "ct status", class: statusClass}
	case CtMark:
		return term{text: "ct mark", class: hexClass, typ: MarkType}
	}
	return term{text: fmt.Sprintf("ct key%d", key), class: hexClass}
}

// compare returns the text of a comparison.
func compare(regs *registers, e Compare) (string, error) {
	t, err := regs.get(e.From)
	if err != nil {
		return "", err
	}
	// nft(8) spells "one of these bits" as a list of names.
	if t.mask != "" && number(t.xor) == 0 && number(e.Data) == 0 && e.Not {
		flags := map[class][]flag{stateClass: stateFlags, statusClass: statusFlags}[t.class]
		if names, ok := spellFlags(flags, uint32(number(t.mask)), ","); ok {
			return t.text + " " + names, nil
		}
	}
	value, err := t.constant(e.Data)
	operator := " "
	switch {
	case e.Not:
		operator = " != "
	case t.mask != "":
		operator = " == "
	}
	return t.masked() + operator + value, err
}

// constant spells a constant that a term is compared with.
func (t *term) constant(data string) (string, error) {
	switch t.class {
	case plain:
		return spell(t.typ, data)
	case directionClass:
		switch data {
		case string(DirectionOriginal):
			return "original", nil
		case string(DirectionReply):
			return "reply", nil
		}
	case tcpFlagsClass:
		if names, ok := spellFlags(tcpFlags, uint32(number(data)), " | "); ok && len(data) == 1 {
			if strings.Contains(names, " ") {
				return "(" + names + ")", nil
			}
			return names, nil
		}
	case existsClass:
		switch data {
		case "\x01":
			return "exists", nil
		case "\x00":
			return "missing", nil
		}
		return "", errors.New("neither exists nor missing")
	case constantClass, mssClass:
		return "", errors.New("a comparison of constants")
	}
	return fmt.Sprintf("%#x", number(data)), nil
}

// key returns the text of the registers that hold the key of a set.
func (s *speller) key(regs *registers, set string, from Register) (string, error) {
	schema, ok := s.sets[set]
	if !ok {
		t, err := regs.get(from)
		return t.masked(), errors.Join(err, fmt.Errorf("no set %s", set))
	}
	if err := identifier("set", set); err != nil {
		return "", err
	}
	var parts []string
	for _, d := range schema.Key {
		if d == NoType {
			break
		}
		t, err := regs.get(from)
		if err == nil && t.typ != d {
			err = fmt.Errorf("%s is not of the type of %s", t.text, set)
		}
		if err != nil {
			return strings.Join(parts, " . "), err
		}
		parts = append(parts, t.masked())
		from += Register(d.Padded() / 4)
	}
	return strings.Join(parts, " . "), nil
}

// hash puts the text of a Hash, whose key may have several parts.
func (s *speller) hash(regs *registers, e Hash) error {
	var parts []string
	for from := e.From; from < e.From+Register(e.Len/4); {
		t, err := regs.get(from)
		if err != nil {
			return err
		}
		if t.typ == PortType {
			regs.transport--
		}
		parts = append(parts, t.masked())
		from += Register(max(4, t.typ.Padded()) / 4)
	}
	text := fmt.Sprintf("jhash %s mod %d seed %#x", strings.Join(parts, " . "), e.Modulus, e.Seed)
	return regs.put(e.To, term{text: text, typ: MarkType})
}

func (s *speller) lookup(regs *registers, e Lookup) (string, error) {
	if t, err := regs.get(e.From); err == nil && t.class == verdictClass && e.Verdict {
		return t.text, nil
	}
	key, err := s.key(regs, e.Set, e.From)
	operator := " @"
	switch {
	case e.Verdict:
		operator = " vmap @"
	case e.Not:
		operator = " != @"
	}
	return key + operator + e.Set, err
}

func (s *speller) lookupMap(regs *registers, e LookupMap) error {
	key, err := s.key(regs, e.Set, e.From)
	if err != nil {
		return err
	}
	if s.joined[e.Set] != nil {
		return regs.put(e.To+1, term{text: key + " vmap @" + e.Set, class: verdictClass})
	}
	to := e.To
	for i, d := range s.sets[e.Set].Data {
		if d == NoType {
			break
		}
		if err := regs.put(to, term{text: key + " map @" + e.Set, typ: d, part: i + 1}); err != nil {
			return err
		}
		to += Register(d.Padded() / 4)
	}
	return nil
}

// nat returns the text of a translation to a constant or to a value of a map.
func (s *speller) nat(regs *registers, e NAT) (string, error) {
	text := "snat to "
	if e.Destination {
		text = "dnat to "
	}
	address, err := regs.get(e.Address)
	if err != nil {
		return text, err
	}
	port, portErr := regs.get(e.FirstPort)
	known := portErr == nil && e.FirstPort == e.LastPort && port.text == address.text && port.part == address.part+1
	target := address.masked()
	switch {
	case address.class == constantClass:
		target, err = s.constantTarget(regs, e, address)
	case e.HasPorts && portErr == nil && port.class == constantClass:
		known = true
		port.text, err = spellPorts(regs, e.FirstPort, e.LastPort)
		target += ":" + port.text
	}
	text += target + spellRandom(e.Flags)
	switch {
	case err != nil:
		return text, err
	case e.Flags&NATOffset != 0:
		return text, errors.New("each port translates to the port with the same offset in the range")
	case !e.HasPorts:
		return text, nil
	case address.class != constantClass && !known:
		return text, errors.New("the port is not of the same value as the address")
	}
	if regs.transport == 0 {
		// nft(8) insists on a match for the protocol before it translates a port.
		text = "meta l4proto { tcp, udp, sctp } " + text
	}
	return text, nil
}

// constantTarget returns an address, and the port or ports if there are any.
func (s *speller) constantTarget(regs *registers, e NAT, address term) (string, error) {
	typ := IPv4Type
	if s.family == gateway.IPv6 {
		typ = IPv6Type
	}
	target, err := spell(typ, address.data)
	if err != nil || !e.HasPorts {
		return target, err
	}
	if s.family == gateway.IPv6 {
		target = "[" + target + "]"
	}
	ports, err := spellPorts(regs, e.FirstPort, e.LastPort)
	return target + ":" + ports, err
}

// spellPorts returns a constant port, or a range of ports.
func spellPorts(regs *registers, from, to Register) (string, error) {
	first, err := regs.get(from)
	last, err2 := regs.get(to)
	if err := errors.Join(err, err2); err != nil {
		return "", err
	}
	text, err := spell(PortType, first.data)
	end, err2 := spell(PortType, last.data)
	if from != to {
		text += "-" + end
	}
	return text, errors.Join(err, err2)
}

func spellRandom(flags uint32) string {
	if flags&NATRandomFully != 0 {
		return " fully-random"
	}
	return ""
}

func masquerade(regs *registers, e Masquerade) (string, error) {
	text := "masquerade"
	if e.HasPorts {
		ports, err := spellPorts(regs, e.FirstPort, e.LastPort)
		if err != nil {
			return text, err
		}
		text += " to :" + ports
	}
	return text + spellRandom(e.Flags), nil
}

func (s *speller) reject(e Reject) (string, error) {
	switch {
	case e.Type == RejectTCPReset:
		return "reject with tcp reset", nil
	case e.Type == RejectICMP && s.family == gateway.IPv4 && e.Code == PortUnreachable4:
		return "reject with icmp port-unreachable", nil
	case e.Type == RejectICMP && s.family == gateway.IPv6 && e.Code == PortUnreachable6:
		return "reject with icmpv6 port-unreachable", nil
	}
	return "reject", fmt.Errorf("reject of type %d and code %d", e.Type, e.Code)
}
