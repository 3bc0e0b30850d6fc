// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package ruleset

import (
	"fmt"
	"slices"
	"time"

	"github.com/smartnat/smartnat/pkg/gateway"
)

// Table is a table of one family. Chains and Sets are sorted by name.
type Table struct {
	Family gateway.Family
	Chains []Chain
	Sets   []Set
	// Helpers are the ct helper objects, sorted by name.
	Helpers []gateway.Helper
	// Flowtables are sorted by name.
	Flowtables []Flowtable
	// Bridge are the chains of the table BridgeTable, sorted by name. There is no such table if there are none.
	Bridge []Chain
}

// BridgeFamily is the family of tables whose chains see frames that bridges handle (NFPROTO_BRIDGE in linux/netfilter.h).
const BridgeFamily gateway.Family = 7

// BridgeTable returns the name of the table of the bridge family that goes with a table. Each family has its own, so that it
// comes and goes with that table in one transaction.
func BridgeTable(name string, family gateway.Family) string {
	return fmt.Sprintf("%s-ipv%d", name, family)
}

// Hook is where the kernel calls a base chain (nft(8), "Chains").
type Hook struct {
	Type     ChainType
	Point    HookPoint
	Priority int32
}

// ChainType is the type of a base chain.
type ChainType string

// The types of base chains.
const (
	FilterType ChainType = "filter"
	RouteType  ChainType = "route"
	NATType    ChainType = "nat"
)

// HookPoint is the number of a hook (linux/netfilter.h, nf_inet_hooks).
type HookPoint uint32

// The hooks.
const (
	Prerouting HookPoint = iota
	Input
	Forward
	Output
	Postrouting
)

// Priorities of base chains (linux/netfilter_ipv4.h, nf_ip_hook_priorities). A lower one is called first.
const (
	MangleOrder int32 = -150
	DNATOrder   int32 = -100
	FilterOrder int32 = 0
	SNATOrder   int32 = 100
)

// Priorities of base chains around br_netfilter, which calls the chains of IP families for frames (NF_BR_PRI_BRNF in
// linux/netfilter_bridge.h).
const (
	BeforeBridgeNetfilter int32 = -1
	AfterBridgeNetfilter  int32 = 1
)

// Chain is a list of rules. A base chain has a Hook and accepts packets that reach its end.
type Chain struct {
	Name  string
	Hook  *Hook
	Rules []Rule
}

// Equal reports whether the chains are the same.
func (c Chain) Equal(o Chain) bool {
	return c.Name == o.Name && c.sameHook(o) && slices.EqualFunc(c.Rules, o.Rules, Rule.Equal)
}

func (c Chain) sameHook(o Chain) bool {
	return (c.Hook == nil) == (o.Hook == nil) && (c.Hook == nil || *c.Hook == *o.Hook)
}

// flowsTo reports whether a rule adds flows to the Flowtable.
func (c Chain) flowsTo(flowtable string) bool {
	return slices.ContainsFunc(c.Rules, func(r Rule) bool { return slices.Contains(r.Exprs, Expr(AddFlow{Flowtable: flowtable})) })
}

// Rule is a list of expressions. The Comment explains it to readers of `nft list ruleset`; at most 127 bytes.
type Rule struct {
	Exprs   []Expr
	Comment string
}

// Equal reports whether the rules are the same.
func (r Rule) Equal(o Rule) bool { return r.Comment == o.Comment && slices.Equal(r.Exprs, o.Exprs) }

// Flowtable lists links. A packet of a known flow that comes in by one of them takes a route that the kernel remembers, and meets
// no chain (nft(8), "Flowtables").
type Flowtable struct {
	Name string
	// Priority orders the Flowtable among the chains of the hook ingress.
	Priority int32
	// Counters means that the packets count in the connection.
	Counters bool
	// Links are sorted.
	Links []string
}

// Equal reports whether the Flowtables are the same.
func (f Flowtable) Equal(o Flowtable) bool {
	return f.Name == o.Name && f.Priority == o.Priority && f.Counters == o.Counters && slices.Equal(f.Links, o.Links)
}

// Datatype is the type of a part of a key or of a value of a map. Each part takes a multiple of 4 bytes.
type Datatype uint8

// The datatypes that we use.
const (
	NoType Datatype = iota
	IPv4Type
	IPv6Type
	ProtocolType
	PortType
	MarkType
	LinkType
	VerdictType
)

// Size returns the number of bytes, without padding.
func (d Datatype) Size() int {
	return [...]int{NoType: 0, IPv4Type: 4, IPv6Type: 16, ProtocolType: 1, PortType: 2, MarkType: 4, LinkType: 16, VerdictType: 16}[d]
}

// Padded returns the number of bytes in a register or concatenation.
func (d Datatype) Padded() int { return (d.Size() + 3) / 4 * 4 }

// Schema is all that describes a set except for its elements. It cannot change while rules use the set.
type Schema struct {
	// Key lists the parts of the key, Data those of the value; a set that is no map has no Data.
	Key, Data [4]Datatype
	// Interval means that elements are ranges.
	Interval bool
	// Dynamic means that rules add elements, which expire.
	Dynamic bool
	// Counters means that each element counts the packets that found it.
	Counters bool
	// Size is the maximum number of elements, or 0 for no limit. A Dynamic set needs one.
	Size uint32
}

// IsMap reports whether elements have a value.
func (s Schema) IsMap() bool { return s.Data[0] != NoType }

// Concatenated reports whether the key has several parts.
func (s Schema) Concatenated() bool { return s.Key[1] != NoType }

// Set is a named set or map. The Elements are sorted by key, and belong to rules if the set is Dynamic.
type Set struct {
	Name string
	Schema
	Elements []Element
}

// Element is an element of a set or map. Keys and Data hold the bytes of a register.
type Element struct {
	// Key is the key, or the first key of a range.
	Key string
	// Last is the last key of a range. It is empty if the set has no ranges.
	Last string
	// Data is the value of a map.
	Data string
	// Verdict is the value of a verdict map.
	Verdict Verdict
}

// Count is an element of a set with Counters.
type Count struct {
	Key     string
	Packets uint64
}

// MaxTimeout bounds the time after which an element of a Dynamic set expires.
const MaxTimeout = 24 * time.Hour
