// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package ruleset

// Expr is an expression of a rule. All expressions are comparable.
type Expr interface{ expr() }

// Register is one of 16 registers of 4 bytes, counted from 0. A longer value also takes the registers that follow.
type Register uint8

// PayloadBase is a header of the packet (linux/netfilter/nf_tables.h, nft_payload_bases).
type PayloadBase uint32

// The headers.
const (
	NetworkHeader   PayloadBase = 1
	TransportHeader PayloadBase = 2
)

// MetaKey is a property of a packet (nft_meta_keys).
type MetaKey uint32

// The properties of packets that we use.
const (
	MetaMark    MetaKey = 3
	MetaIIFName MetaKey = 6
	MetaOIFName MetaKey = 7
	MetaL4Proto MetaKey = 16
)

// CtKey is a property of a connection (nft_ct_keys).
type CtKey uint32

// The properties of connections that we use.
const (
	CtState     CtKey = 0
	CtDirection CtKey = 1
	CtStatus    CtKey = 2
	CtMark      CtKey = 3
)

// Bits of CtState as nf_tables sees them (nf_conntrack_tuple_common.h, NF_CT_STATE_BIT).
const (
	StateInvalid     uint32 = 1 << 0
	StateEstablished uint32 = 1 << 1
	StateRelated     uint32 = 1 << 2
	StateNew         uint32 = 1 << 3
	StateUntracked   uint32 = 1 << 6
)

// Bits of CtStatus (nf_conntrack_common.h, ip_conntrack_status).
const (
	StatusExpected uint32 = 1 << 0
	StatusAssured  uint32 = 1 << 2
	StatusSNAT     uint32 = 1 << 4
	StatusDNAT     uint32 = 1 << 5
)

// Values of CtDirection, one byte.
const (
	DirectionOriginal byte = 0
	DirectionReply    byte = 1
)

// The expressions.
type (
	// Payload loads Len bytes at Offset of a header.
	Payload struct {
		Base        PayloadBase
		Offset, Len uint32
		To          Register
	}
	// Meta loads a property of the packet. Names of links are 16 bytes, padded with zeros.
	Meta struct {
		Key MetaKey
		To  Register
	}
	// SetMeta sets a property of the packet.
	SetMeta struct {
		Key  MetaKey
		From Register
	}
	// Ct loads a property of the connection. The rule ends if the packet has no connection, except for CtState.
	Ct struct {
		Key CtKey
		To  Register
	}
	// SetCt sets a property of the connection.
	SetCt struct {
		Key  CtKey
		From Register
	}
	// Bitwise sets To to From & Mask ^ Xor.
	Bitwise struct {
		From, To  Register
		Mask, Xor string
	}
	// Compare ends the rule unless From equals Data, or unless it differs if Not is set.
	Compare struct {
		From Register
		Data string
		Not  bool
	}
	// Lookup ends the rule unless the set has the key, or unless it lacks it if Not is set. If Verdict is set, the set is a
	// verdict map whose verdict takes effect.
	Lookup struct {
		Set     string
		From    Register
		Not     bool
		Verdict bool
	}
	// LookupMap loads the value of a key, and ends the rule if the map lacks the key.
	LookupMap struct {
		Set      string
		From, To Register
	}
	// Random loads a random number from Offset to Offset+Modulus-1.
	Random struct {
		Modulus, Offset uint32
		To              Register
	}
	// Hash loads a number below Modulus that depends only on Len bytes, which are whole registers.
	Hash struct {
		From, To           Register
		Len, Modulus, Seed uint32
	}
	// Immediate loads a constant.
	Immediate struct {
		To   Register
		Data string
	}
	// Verdict ends the evaluation, or continues it in a chain.
	Verdict struct {
		Code  VerdictCode
		Chain string
	}
	// NAT translates the connection. Destination means DNAT, otherwise SNAT. HasPort means that Port and the registers of
	// address have values. Flags are NATRandomFully and NATOffset.
	NAT struct {
		Destination bool
		Address     Register
		// HasPorts means that the port comes from FirstPort to LastPort.
		HasPorts            bool
		FirstPort, LastPort Register
		Flags               uint32
	}
	// Masquerade is source NAT to the address of the outgoing link.
	Masquerade struct {
		HasPorts            bool
		FirstPort, LastPort Register
		Flags               uint32
	}
	// Reject answers a packet and drops it.
	Reject struct{ Type, Code uint32 }
	// Update adds the key to a Dynamic set, or renews it. It expires after Milliseconds.
	Update struct {
		Set          string
		From         Register
		Milliseconds uint64
	}
	// Counter counts packets.
	Counter struct{}
	// AddFlow adds the connection of the packet to a Flowtable, and ends the rule if that is not possible. The route of the
	// packet's direction is that of the packet, and the other one is what a lookup with the mark of the packet finds.
	AddFlow struct{ Flowtable string }
	// ReversePath loads one byte: 1 if the host would send an answer, with the mark of the packet, out of the link by which the
	// packet came in, otherwise 0.
	ReversePath struct{ To Register }
	// AssignHelper assigns a ct helper object to the connection.
	AssignHelper struct{ Name string }
	// PathMSS loads the TCP segment size that the path MTU permits, in network byte order.
	PathMSS struct{ To Register }
	// SwapPort converts two bytes from host to network byte order.
	SwapPort struct{ From, To Register }
	// LowerMSS sets the segment size of a TCP SYN, unless it is lower already.
	LowerMSS struct{ From Register }
	// Unknown is an expression that another process wrote.
	Unknown struct{ Name string }
)

// VerdictCode is a verdict (nft_verdicts, and linux/netfilter.h).
type VerdictCode int32

// The verdicts.
const (
	Drop     VerdictCode = 0
	Accept   VerdictCode = 1
	Continue VerdictCode = -1
	Jump     VerdictCode = -3
	Goto     VerdictCode = -4
	Return   VerdictCode = -5
)

// Flags of NAT (linux/netfilter/nf_nat.h).
const (
	NATPortsSpecified uint32 = 1 << 1
	NATRandomFully    uint32 = 1 << 4
	NATOffset         uint32 = 1 << 5
)

// Types of Reject (nft_reject_types), and codes for ports without a service (linux/icmp.h, linux/icmpv6.h).
const (
	RejectICMP     uint32 = 0
	RejectTCPReset uint32 = 1

	PortUnreachable4 uint32 = 3
	PortUnreachable6 uint32 = 4
)

func (Payload) expr()      {}
func (Meta) expr()         {}
func (SetMeta) expr()      {}
func (Ct) expr()           {}
func (SetCt) expr()        {}
func (Bitwise) expr()      {}
func (Compare) expr()      {}
func (Lookup) expr()       {}
func (LookupMap) expr()    {}
func (Random) expr()       {}
func (Hash) expr()         {}
func (Immediate) expr()    {}
func (Verdict) expr()      {}
func (NAT) expr()          {}
func (Masquerade) expr()   {}
func (Reject) expr()       {}
func (Update) expr()       {}
func (Counter) expr()      {}
func (AddFlow) expr()      {}
func (ReversePath) expr()  {}
func (AssignHelper) expr() {}
func (PathMSS) expr()      {}
func (SwapPort) expr()     {}
func (LowerMSS) expr()     {}
func (Unknown) expr()      {}
