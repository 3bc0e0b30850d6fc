// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package netlink

import (
	"cmp"
	"slices"
	"strings"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/smartnat/smartnat/pkg/nftables/ruleset"
)

// setOf decodes a set without elements, and the table that it belongs to.
func setOf(answer netlink.Message) (table string, s ruleset.Set, err error) {
	var flags, keyType, dataType uint32
	err = attributes(answer, func(d *netlink.AttributeDecoder) {
		switch d.Type() {
		case unix.NFTA_SET_TABLE:
			table = d.String()
		case unix.NFTA_SET_NAME:
			s.Name = d.String()
		case unix.NFTA_SET_FLAGS:
			flags = d.Uint32()
		case unix.NFTA_SET_KEY_TYPE:
			keyType = d.Uint32()
		case unix.NFTA_SET_DATA_TYPE:
			dataType = d.Uint32()
		case setExpr:
			s.Counters = true
		case unix.NFTA_SET_DESC:
			nested(d, func(d *netlink.AttributeDecoder) {
				if d.Type() == unix.NFTA_SET_DESC_SIZE {
					s.Size = d.Uint32()
				}
			})
		}
	})
	s.Interval, s.Dynamic = flags&unix.NFT_SET_INTERVAL != 0, flags&unix.NFT_SET_EVAL != 0
	s.Key = typesOf(keyType)
	if flags&unix.NFT_SET_MAP != 0 {
		s.Data = typesOf(dataType)
	}
	return table, s, err
}

// typesOf returns the parts of a type.
func typesOf(number uint32) (parts [4]ruleset.Datatype) {
	var reversed []ruleset.Datatype
	if number == setTypeVerdict {
		parts[0] = ruleset.VerdictType
		return parts
	}
	for ; number > 0 && len(reversed) < len(parts); number >>= 6 {
		for datatype, n := range datatypes {
			if n == number&(1<<6-1) {
				reversed = append(reversed, datatype)
			}
		}
	}
	slices.Reverse(reversed)
	copy(parts[:], reversed)
	return parts
}

// rawElement is an element as the kernel lists it.
type rawElement struct {
	ruleset.Element
	end bool
}

// elementsOf appends the elements of an answer.
func elementsOf(elements []rawElement, answer netlink.Message) ([]rawElement, error) {
	err := attributes(answer, func(d *netlink.AttributeDecoder) {
		if d.Type() == unix.NFTA_SET_ELEM_LIST_ELEMENTS {
			nested(d, func(d *netlink.AttributeDecoder) { elements = append(elements, elementOf(d)) })
		}
	})
	return elements, err
}

func elementOf(d *netlink.AttributeDecoder) (e rawElement) {
	nested(d, func(d *netlink.AttributeDecoder) {
		switch d.Type() {
		case unix.NFTA_SET_ELEM_KEY:
			e.Key = value(d)
		case setElemKeyEnd:
			e.Last = value(d)
		case unix.NFTA_SET_ELEM_FLAGS:
			e.end = d.Uint32()&unix.NFT_SET_ELEM_INTERVAL_END != 0
		case unix.NFTA_SET_ELEM_DATA:
			nested(d, func(d *netlink.AttributeDecoder) {
				switch d.Type() {
				case unix.NFTA_DATA_VALUE:
					e.Data = string(d.Bytes())
				case unix.NFTA_DATA_VERDICT:
					e.Verdict = verdict(d)
				}
			})
		}
	})
	return e
}

// countsOf appends the counters of the elements of an answer.
func countsOf(counts []ruleset.Count, answer netlink.Message) ([]ruleset.Count, error) {
	err := attributes(answer, func(d *netlink.AttributeDecoder) {
		if d.Type() == unix.NFTA_SET_ELEM_LIST_ELEMENTS {
			nested(d, func(d *netlink.AttributeDecoder) { counts = append(counts, countOf(d)) })
		}
	})
	return counts, err
}

func countOf(d *netlink.AttributeDecoder) (c ruleset.Count) {
	nested(d, func(d *netlink.AttributeDecoder) {
		switch d.Type() {
		case unix.NFTA_SET_ELEM_KEY:
			c.Key = value(d)
		case unix.NFTA_SET_ELEM_EXPR:
			nested(d, func(d *netlink.AttributeDecoder) {
				if d.Type() == unix.NFTA_EXPR_DATA {
					nested(d, func(d *netlink.AttributeDecoder) {
						if d.Type() == unix.NFTA_COUNTER_PACKETS {
							c.Packets = d.Uint64()
						}
					})
				}
			})
		}
	})
	return c
}

// joinRanges returns the elements sorted by key, or nil. Ranges without concatenation have their last key.
func joinRanges(s ruleset.Schema, listed []rawElement) []ruleset.Element {
	if len(listed) == 0 {
		return nil
	}
	slices.SortFunc(listed, func(x, y rawElement) int {
		return cmp.Or(strings.Compare(x.Key, y.Key), -cmp.Compare(fromBool(x.end), fromBool(y.end)))
	})
	elements := make([]ruleset.Element, 0, len(listed))
	for _, e := range listed {
		switch n := len(elements); {
		case !e.end:
			if s.Interval && !s.Concatenated() {
				e.Last = strings.Repeat("\xff", len(e.Key)) // until an end follows
			}
			elements = append(elements, e.Element)
		case n > 0:
			elements[n-1].Last = before(e.Key)
		}
	}
	return elements
}

func fromBool(b bool) int {
	if b {
		return 1
	}
	return 0
}
