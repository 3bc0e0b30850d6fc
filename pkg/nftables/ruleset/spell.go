// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package ruleset

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/smartnat/smartnat/pkg/gateway"
)

// speller spells rules as nft(8) does, by executing them with terms in place of values.
type speller struct {
	family gateway.Family
	sets   map[string]Schema
	// random holds the maps that a rule looks up by a random number.
	random map[string]bool
	// joined holds the maps whose value is the key of a verdict map, which nft(8) spells as one verdict map.
	joined map[string]map[string]Verdict
	// inner holds these verdict maps.
	inner map[string]bool
}

func newSpeller(t Table) *speller {
	s := &speller{family: t.Family, sets: make(map[string]Schema, len(t.Sets)), random: map[string]bool{}}
	s.joinMaps(t)
	for i := range t.Sets {
		s.sets[t.Sets[i].Name] = t.Sets[i].Schema
	}
	for i := range t.Chains {
		for j := range t.Chains[i].Rules {
			s.findRandom(&t.Chains[i].Rules[j])
		}
	}
	return s
}

// joinMaps finds maps whose value, without its first four bytes, only leads to a verdict map.
func (s *speller) joinMaps(t Table) {
	s.joined, s.inner = map[string]map[string]Verdict{}, map[string]bool{}
	for i := range t.Chains {
		for _, r := range t.Chains[i].Rules {
			for j := 1; j < len(r.Exprs); j++ {
				outer, isMap := r.Exprs[j-1].(LookupMap)
				inner, isLookup := r.Exprs[j].(Lookup)
				if isMap && isLookup && inner.Verdict && inner.From == outer.To+1 {
					s.joined[outer.Set], s.inner[inner.Set] = verdictsOf(t, inner.Set), true
				}
			}
		}
	}
}

func verdictsOf(t Table, name string) map[string]Verdict {
	verdicts := map[string]Verdict{}
	for i := range t.Sets {
		if t.Sets[i].Name != name {
			continue
		}
		for _, e := range t.Sets[i].Elements {
			verdicts[e.Key] = e.Verdict
		}
	}
	return verdicts
}

func (s *speller) findRandom(r *Rule) {
	random := false
	for _, e := range r.Exprs {
		switch e := e.(type) {
		case Random, Hash:
			random = true
		case Lookup:
			if random {
				s.random[e.Set] = true
			}
			random = false
		case LookupMap:
			if random {
				s.random[e.Set] = true
			}
			random = false
		}
	}
}

// term is the symbolic value of a register.
type term struct {
	text string
	// typ is the type, or NoType if class says more.
	typ   Datatype
	class class
	// data is the value of a constant.
	data string
	// mask and xor are those of a Bitwise.
	mask, xor string
	// part counts the values of a map from 1.
	part int
}

// class says how constants of a term are spelled.
type class uint8

const (
	plain class = iota
	stateClass
	statusClass
	directionClass
	tcpFlagsClass
	hexClass
	constantClass
	mssClass
	verdictClass
	existsClass
)

// registers are the terms of the registers.
type registers struct {
	// terms has a term at the first of its registers.
	terms [16]term
	// transport counts how often the rule read the transport protocol or a header of it, except for a hash.
	transport int
}

func (r *registers) put(to Register, t term) error {
	if int(to) >= len(r.terms) {
		return fmt.Errorf("register %d does not exist", to)
	}
	r.terms[to] = t
	return nil
}

func (r *registers) get(from Register) (term, error) {
	if int(from) >= len(r.terms) || r.terms[from].text == "" {
		return term{}, fmt.Errorf("register %d has no value", from)
	}
	return r.terms[from], nil
}

// Rule returns a rule as nft(8) spells it. With an error, the text says as much as possible.
func (s *speller) Rule(r *Rule) (string, error) {
	var regs registers
	var words []string
	var errs []error
	for _, e := range r.Exprs {
		text, err := s.expr(&regs, e)
		if text != "" {
			words = append(words, text)
		}
		if err != nil {
			errs = append(errs, err)
		}
	}
	if r.Comment != "" {
		words = append(words, `comment "`+strings.ReplaceAll(oneLine(r.Comment), `"`, "'")+`"`)
	}
	return strings.Join(words, " "), errors.Join(errs...)
}

// expr executes an expression and returns the text of a match or statement. Loads have none.
func (s *speller) expr(regs *registers, e Expr) (string, error) {
	switch e := e.(type) {
	case Payload:
		if e.Base == TransportHeader {
			regs.transport++
		}
		return "", regs.put(e.To, s.payload(e))
	case Meta:
		if e.Key == MetaL4Proto {
			regs.transport++
		}
		return "", regs.put(e.To, metaTerm(e.Key))
	case Ct:
		return "", regs.put(e.To, ctTerm(e.Key))
	case Random:
		text := fmt.Sprintf("numgen random mod %d", e.Modulus)
		if e.Offset > 0 {
			text += fmt.Sprintf(" offset %d", e.Offset)
		}
		return "", regs.put(e.To, term{text: text, typ: MarkType})
	case Hash:
		return "", s.hash(regs, e)
	case Immediate:
		return "", regs.put(e.To, term{text: "a constant", class: constantClass, data: e.Data})
	case PathMSS:
		return "", regs.put(e.To, term{text: "rt mtu", class: mssClass})
	case ReversePath:
		return "", regs.put(e.To, term{text: "fib saddr . mark . iif oif", class: existsClass})
	case SwapPort:
		return "", move(regs, e.From, e.To)
	case Bitwise:
		return "", bitwise(regs, e)
	case Compare:
		return compare(regs, e)
	case Lookup:
		return s.lookup(regs, e)
	case LookupMap:
		return "", s.lookupMap(regs, e)
	default:
		return s.statement(regs, e)
	}
}

// statement returns the text of an expression that acts.
func (s *speller) statement(regs *registers, e Expr) (string, error) {
	switch e := e.(type) {
	case SetMeta:
		return set(regs, metaTerm(e.Key).text, e.From)
	case SetCt:
		return set(regs, ctTerm(e.Key).text, e.From)
	case Verdict:
		return spellVerdict(e)
	case NAT:
		return s.nat(regs, e)
	case Masquerade:
		return masquerade(regs, e)
	case Reject:
		return s.reject(e)
	case Update:
		key, err := s.key(regs, e.Set, e.From)
		return fmt.Sprintf("update @%s { %s timeout %s }", e.Set, key, spellTimeout(e.Milliseconds)), err
	case Counter:
		return "counter", nil
	case AddFlow:
		return "flow add @" + e.Flowtable, identifier("flowtable", e.Flowtable)
	case AssignHelper:
		return `ct helper set "` + e.Name + `"`, identifier("helper", e.Name)
	case LowerMSS:
		from, err := regs.get(e.From)
		if err == nil && from.class != mssClass {
			err = errors.New("a segment size that is not that of the path")
		}
		return "tcp option maxseg size set " + from.text, err
	case Unknown:
		return "unknown", fmt.Errorf("unknown expression %s", e.Name)
	}
	return "unknown", fmt.Errorf("unknown expression %T", e)
}

func spellTimeout(milliseconds uint64) string {
	text := ""
	if s := milliseconds / 1000; s > 0 || milliseconds == 0 {
		text = fmt.Sprintf("%ds", s)
	}
	if ms := milliseconds % 1000; ms > 0 {
		text += fmt.Sprintf("%dms", ms)
	}
	return text
}

func move(regs *registers, from, to Register) error {
	t, err := regs.get(from)
	if err != nil {
		return err
	}
	return regs.put(to, t)
}

func bitwise(regs *registers, e Bitwise) error {
	t, err := regs.get(e.From)
	if err == nil && t.mask != "" {
		err = fmt.Errorf("two operations on %s", t.text)
	}
	if err != nil {
		return err
	}
	t.mask, t.xor = e.Mask, e.Xor
	return regs.put(e.To, t)
}

// masked returns a term with its operation.
func (t *term) masked() string {
	if t.mask == "" {
		return t.text
	}
	mask, xor := number(t.mask), number(t.xor)
	text := t.text
	if t.class == tcpFlagsClass {
		if names, ok := spellFlags(tcpFlags, uint32(mask), " | "); ok && xor == 0 {
			return text + " & (" + names + ")"
		}
	}
	text += fmt.Sprintf(" & %#x", mask)
	switch {
	case xor == 0:
	case mask&xor == 0:
		// Bits that the mask clears: | is the same as ^.
		text += fmt.Sprintf(" | %#x", xor)
	default:
		text += fmt.Sprintf(" ^ %#x", xor)
	}
	return text
}

// number returns a value of up to 4 bytes as the host does, or the single byte of a header.
func number(data string) uint64 {
	switch len(data) {
	case 1:
		return uint64(data[0])
	case 4:
		return uint64(binary.NativeEndian.Uint32([]byte(data)))
	}
	n := uint64(0)
	for i := range len(data) {
		n = n<<8 | uint64(data[i])
	}
	return n
}

func set(regs *registers, what string, from Register) (string, error) {
	t, err := regs.get(from)
	text := t.masked()
	if t.class == constantClass {
		text = fmt.Sprintf("%#x", number(t.data))
	}
	return what + " set " + text, err
}
