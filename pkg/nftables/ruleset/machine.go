// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package ruleset

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/packet"
)

// machine executes expressions.
type machine struct {
	*journey
	registers [64]byte
}

// get returns bytes from a register on, or nil if it has fewer.
func (m *machine) get(from Register, n int) []byte {
	first := 4 * int(from)
	if first+n > len(m.registers) {
		return nil
	}
	return m.registers[first : first+n]
}

// put writes a value and pads it with zeros to a multiple of 4 bytes.
func (m *machine) put(to Register, value []byte) bool {
	room := m.get(to, (len(value)+3)/4*4)
	clear(room[copy(room, value):]) // The value may be that of the same register.
	return room != nil
}

func (m *machine) putNumber(to Register, n uint32) bool {
	return m.put(to, binary.NativeEndian.AppendUint32(nil, n))
}

// getNumber returns a number of 4 bytes.
func (m *machine) getNumber(from Register) uint32 {
	if b := m.get(from, 4); b != nil {
		return binary.NativeEndian.Uint32(b)
	}
	return 0
}

var continues = Verdict{Code: Continue}

// expr executes an expression and reports whether the rule goes on. The Verdict is Continue, or what ends the rule.
func (m *machine) expr(e Expr) (Verdict, bool) {
	switch e := e.(type) {
	case Verdict:
		return e, true
	case Lookup:
		element, found := m.lookup(e.Set, e.From)
		if e.Verdict && found {
			return element.Verdict, true
		}
		return continues, found != e.Not
	case LookupMap:
		element, found := m.lookup(e.Set, e.From)
		return continues, found && m.put(e.To, []byte(element.Data))
	case Bitwise:
		return continues, m.bitwise(e)
	case Compare:
		value := m.get(e.From, len(e.Data))
		return continues, value != nil && (string(value) == e.Data) != e.Not
	case Random:
		return continues, e.Modulus > 0 && m.putNumber(e.To, e.Offset+m.random(e.Modulus))
	case Hash:
		return continues, m.hash(e)
	case NAT, Masquerade, Reject:
		return m.finish(e), true
	case Payload, Meta, Ct, Immediate, PathMSS, ReversePath:
		return continues, m.load(e)
	default:
		m.set(e)
		return continues, true
	}
}

// load executes an expression that loads a property.
func (m *machine) load(e Expr) bool {
	switch e := e.(type) {
	case Payload:
		header := m.header(e.Base)
		return int(e.Offset)+int(e.Len) <= len(header) && m.put(e.To, header[e.Offset:][:e.Len])
	case Meta:
		return m.meta(e)
	case Ct:
		return m.ct(e)
	case Immediate:
		return m.put(e.To, []byte(e.Data))
	case PathMSS:
		return m.putNumber(e.To, 0) // A Packet has no size.
	case ReversePath:
		return m.put(e.To, []byte{m.reversePath()})
	}
	return false
}

// reversePath follows nft_fib4_eval (net/ipv4/netfilter/nft_fib_ipv4.c).
func (m *machine) reversePath() byte {
	p := &m.Packet
	if p.Route != nil && p.In != "" && p.Route(p.Source.Addr(), p.Mark) == p.In {
		return 1
	}
	return 0
}

// header returns a header of the packet. The parts that no expression of ours loads are zero.
func (m *machine) header(base PayloadBase) []byte {
	p := &m.Packet
	switch base {
	case NetworkHeader:
		if m.table.Family == gateway.IPv6 {
			return slices.Concat(make([]byte, 8), p.Source.Addr().AsSlice(), p.Destination.Addr().AsSlice())
		}
		return slices.Concat(make([]byte, 12), p.Source.Addr().AsSlice(), p.Destination.Addr().AsSlice())
	case TransportHeader:
		header := make([]byte, 20)
		binary.BigEndian.PutUint16(header, p.Source.Port())
		binary.BigEndian.PutUint16(header[2:], p.Destination.Port())
		if p.Protocol == gateway.TCP {
			if header[13] = 16; p.SYN { // ACK
				header[13] = 2 // SYN
			}
		}
		return header
	}
	return nil
}

func (m *machine) meta(e Meta) bool {
	switch e.Key {
	case MetaMark:
		return m.putNumber(e.To, m.Packet.Mark)
	case MetaIIFName:
		return m.putLink(e.To, m.Packet.In)
	case MetaOIFName:
		return m.putLink(e.To, m.Out)
	case MetaL4Proto:
		return m.put(e.To, []byte{m.protocol()})
	}
	return false
}

func (m *machine) putLink(to Register, link string) bool {
	var name [16]byte // IFNAMSIZ
	copy(name[:15], link)
	return m.put(to, name[:])
}

// protocol returns the number of the protocol (RFC 5237). All but those of Mappings count as ICMP.
func (m *machine) protocol() byte {
	switch m.Packet.Protocol {
	case gateway.TCP:
		return 6
	case gateway.UDP:
		return 17
	case gateway.SCTP:
		return 132
	}
	if m.table.Family == gateway.IPv6 {
		return 58
	}
	return 1
}

// ct follows nft_ct_get_eval (net/netfilter/nft_ct.c): a packet without a connection has only a state.
func (m *machine) ct(e Ct) bool {
	p := &m.Packet
	if e.Key == CtState {
		return m.putNumber(e.To, translate(p.State, ctStates))
	}
	if !p.Tracked() {
		return false
	}
	switch e.Key {
	case CtDirection:
		return p.Direction != 0 && m.put(e.To, []byte{byte(p.Direction - packet.Original)})
	case CtStatus:
		status := translate(p.State, ctStatus)
		if p.Expected {
			status |= StatusExpected
		}
		return m.putNumber(e.To, status)
	case CtMark:
		return m.putNumber(e.To, p.ConnMark)
	}
	return false
}

// ctBit is a bit of the kernel for a State.
type ctBit struct {
	state packet.State
	bit   uint32
}

var (
	ctStates = []ctBit{
		{packet.New, StateNew}, {packet.Established, StateEstablished}, {packet.Related, StateRelated},
		{packet.Invalid, StateInvalid}, {packet.Untracked, StateUntracked},
	}
	// Connections with answers are assured, except for those of UDP in their first two seconds.
	ctStatus = []ctBit{{packet.Established, StatusAssured}, {packet.SNAT, StatusSNAT}, {packet.DNAT, StatusDNAT}}
)

func translate(state packet.State, bits []ctBit) (n uint32) {
	for _, b := range bits {
		if state&b.state != 0 {
			n |= b.bit
		}
	}
	return n
}

func (m *machine) bitwise(e Bitwise) bool {
	value := slices.Clone(m.get(e.From, len(e.Mask)))
	if value == nil || len(e.Xor) != len(e.Mask) {
		return false
	}
	for i := range value {
		value[i] = value[i]&e.Mask[i] ^ e.Xor[i]
	}
	return m.put(e.To, value)
}

// hash follows nft_jhash_eval (net/netfilter/nft_hash.c). The hash of a client whose port is unknown may be any.
func (m *machine) hash(e Hash) bool {
	key := m.get(e.From, int(e.Len))
	if key == nil || e.Modulus == 0 {
		return false
	}
	if m.Packet.Source.Port() == 0 && e.Len > uint32(len(m.Packet.Source.Addr().AsSlice())) {
		return m.putNumber(e.To, m.random(e.Modulus))
	}
	return m.putNumber(e.To, scale(jhash(key, e.Seed), e.Modulus))
}

// random chooses a number below n.
func (m *machine) random(n uint32) uint32 {
	if n == 1 {
		return 0
	}
	m.Probability /= float64(n)
	return m.choose(n)
}

// lookup finds the element for a key.
func (m *machine) lookup(set string, from Register) (Element, bool) {
	s := m.sets[set]
	if s == nil {
		return Element{}, false
	}
	if s.Dynamic {
		return Element{}, slices.Contains(m.Remembered, set) || m.recent != nil && m.recent(set)
	}
	return s.find(m.get(from, s.size))
}

// set executes an expression that changes the packet and does not end the rule.
func (m *machine) set(e Expr) {
	p := &m.Packet
	switch e := e.(type) {
	case SetMeta:
		if e.Key == MetaMark {
			p.Mark = m.getNumber(e.From)
		}
	case SetCt:
		if e.Key == CtMark && p.Tracked() {
			p.ConnMark = m.getNumber(e.From)
		}
	case SwapPort:
		// Only a segment size, which has no value here, is swapped. nft(8) also swaps a protocol, which has one byte and stays.
		m.put(e.To, m.get(e.From, 2))
	case LowerMSS:
		// Only a SYN has the option.
		m.Clamped = m.Clamped || p.Protocol == gateway.TCP && p.SYN
	case Update:
		if s := m.sets[e.Set]; s == nil || !s.Counters { // A set of counters remembers no client.
			m.Remembered = append(m.Remembered, e.Set)
		}
	case Counter, AssignHelper, AddFlow:
		// A Packet has none of them.
	}
}

// finish executes an expression that ends the evaluation.
func (m *machine) finish(e Expr) Verdict {
	p := &m.Packet
	switch e := e.(type) {
	case NAT:
		m.translated = true
		if e.Destination {
			p.Destination = m.nat(e, p.Destination)
			p.State |= packet.DNAT
		} else {
			p.Source = m.nat(e, p.Source)
			p.State |= packet.SNAT
		}
	case Masquerade:
		m.translated, m.Masqueraded = true, true
	case Reject:
		m.Verdict, m.RejectWith = packet.Reject, m.answer(e)
		return Verdict{Code: Drop}
	}
	return Verdict{Code: Accept}
}

func (m *machine) answer(e Reject) string {
	switch {
	case e.Type == RejectTCPReset:
		return "tcp-reset"
	case m.table.Family == gateway.IPv4 && e.Code == PortUnreachable4:
		return "icmp-port-unreachable"
	case m.table.Family == gateway.IPv6 && e.Code == PortUnreachable6:
		return "icmp6-port-unreachable"
	}
	return fmt.Sprintf("type %d code %d", e.Type, e.Code)
}

// nat returns the new address and port. For a range of ports, it follows nf_nat_l4proto_unique_tuple (net/netfilter/nf_nat_core.c)
// as far as that does not depend on other connections.
func (m *machine) nat(e NAT, old netip.AddrPort) netip.AddrPort {
	address, ok := netip.AddrFromSlice(m.get(e.Address, len(old.Addr().AsSlice())))
	if !ok {
		return old
	}
	port := old.Port()
	if first, last := m.get(e.FirstPort, 2), m.get(e.LastPort, 2); e.HasPorts && first != nil && last != nil {
		from, to := binary.BigEndian.Uint16(first), binary.BigEndian.Uint16(last)
		switch {
		case e.Flags&NATOffset != 0 && from <= to:
			port = uint16(uint32(from) + uint32(port)%(uint32(to-from)+1))
		case port < from || port > to:
			port = from
		}
	}
	return netip.AddrPortFrom(address, port)
}
