// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package ruleset

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/smartnat/smartnat/pkg/delta"
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/packet"
)

// Differences returns the changes from one table to another, rule by rule and element by element, for people. There is none only if
// Diff is empty.
func Differences(have, want Table) packet.Differences {
	d := differences{have: printer{speller: newSpeller(have)}, want: printer{speller: newSpeller(want)}}
	for was, is := range delta.Join(have.Sets, want.Sets, func(x, y Set) int { return strings.Compare(x.Name, y.Name) }) {
		d.set(was, is)
	}
	d.chains("", have.Chains, want.Chains)
	d.chains("bridge ", have.Bridge, want.Bridge)
	for was, is := range delta.Join(have.Helpers, want.Helpers, func(x, y gateway.Helper) int { return strings.Compare(x.Name, y.Name) }) {
		if was == nil || is == nil {
			h := cmp.Or(was, is)
			d.found.Add(packet.Difference{Missing: was == nil, Place: "helper", Text: h.Name})
		}
	}
	for was, is := range delta.Join(have.Flowtables, want.Flowtables, func(x, y Flowtable) int { return strings.Compare(x.Name, y.Name) }) {
		if was != nil && is != nil && was.Equal(*is) {
			continue
		}
		for i, f := range []*Flowtable{was, is} {
			if f != nil {
				d.found.Add(packet.Difference{Missing: i == 1, Place: "flowtable " + f.Name, Text: "links " + strings.Join(f.Links, ", ")})
			}
		}
	}
	return d.found
}

// differences collects, and spells what is in either table.
type differences struct {
	have, want printer
	found      packet.Differences
}

func (d *differences) set(was, is *Set) {
	kind := "set "
	if cmp.Or(was, is).IsMap() {
		kind = "map "
	}
	place := kind + cmp.Or(was, is).Name
	if was == nil || is == nil || was.Schema != is.Schema {
		for i, s := range []*Set{was, is} {
			if s != nil {
				d.found.Add(packet.Difference{Missing: i == 1, Place: place, Text: fmt.Sprintf("with %d elements", len(s.Elements))})
			}
		}
	}
	if is == nil || is.Dynamic {
		return
	}
	if was == nil || was.Schema != is.Schema {
		was = &Set{Name: is.Name, Schema: is.Schema}
	}
	removed, added := DiffElements(was.Elements, is.Elements)
	d.elements(place, &d.have, was, removed, false)
	d.elements(place, &d.want, is, added, true)
}

func (d *differences) elements(place string, spelling *printer, s *Set, list []Element, missing bool) {
	for i := range list {
		text, err := spelling.element(s, &list[i])
		if err != nil {
			text = fmt.Sprintf("%x", list[i].Key)
		}
		d.found.Add(packet.Difference{Missing: missing, Place: place, Text: text, Frontend: frontendOf(s, &list[i])})
	}
}

// frontendOf returns the Frontend that is the key of an element, or that it begins with.
func frontendOf(s *Set, e *Element) gateway.Frontend {
	size := s.Key[0].Padded()
	address := s.Key[0] == IPv4Type || s.Key[0] == IPv6Type
	if !address || s.Key[1] != ProtocolType || s.Key[2] != PortType || len(e.Key) < size+6 {
		return gateway.Frontend{}
	}
	port := func(key string) uint16 { return binary.BigEndian.Uint16([]byte(key[size+4:])) }
	f := gateway.Frontend{Protocol: gateway.Protocol(protocolName(e.Key[size])), Ports: gateway.Port(port(e.Key))}
	f.Address, _ = netip.AddrFromSlice([]byte(e.Key[:size]))
	if len(e.Last) >= size+6 {
		f.Ports.Last = port(e.Last)
	}
	return f
}

func (d *differences) chains(family string, have, want []Chain) {
	for was, is := range delta.Join(have, want, func(x, y Chain) int { return strings.Compare(x.Name, y.Name) }) {
		place := family + "chain " + cmp.Or(was, is).Name
		if was == nil || is == nil || !was.sameHook(*is) {
			for i, c := range []*Chain{was, is} {
				if c != nil {
					d.found.Add(packet.Difference{Missing: i == 1, Place: place, Text: fmt.Sprintf("with %d rules", len(c.Rules))})
				}
			}
		}
		d.rules(place, was, is)
	}
}

// rules adds the rules that only one of the chains has.
func (d *differences) rules(place string, was, is *Chain) {
	var have, want []Rule
	if was != nil {
		have = was.Rules
	}
	if is != nil {
		want = is.Rules
	}
	before := d.found.Total
	excess := func(spelling *printer, rules, other []Rule, missing bool) {
		other = slices.Clone(other)
		for i := range rules {
			if at := slices.IndexFunc(other, rules[i].Equal); at >= 0 {
				other = slices.Delete(other, at, at+1)
				continue
			}
			text, _ := spelling.Rule(&rules[i]) // as much as can be spelled
			d.found.Add(packet.Difference{Missing: missing, Place: place, Text: text})
		}
	}
	excess(&d.have, have, want, false)
	excess(&d.want, want, have, true)
	if d.found.Total == before && was != nil && is != nil && !slices.EqualFunc(have, want, Rule.Equal) {
		d.found.Add(packet.Difference{Missing: true, Place: place, Text: fmt.Sprintf("the order of %d rules", len(want))})
	}
}
