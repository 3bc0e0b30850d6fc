// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package ruleset

import (
	"bufio"
	"fmt"
	"io"
	"strings"

	"github.com/smartnat/smartnat/pkg/gateway"
)

// WriteText writes the table as input for `nft -f -` (nft(8)), in the order of the Table, so that equal tables have equal text.
// A map whose value is the key of a verdict map becomes one with it. A rule that nft(8) cannot spell becomes a comment. Elements of a Dynamic set are left out. It returns an error if nft(8) cannot
// spell a name.
func WriteText(w io.Writer, table Table, name string) error {
	p := printer{Writer: bufio.NewWriter(w), speller: newSpeller(table)}
	if err := p.table(table, name); err != nil {
		return err
	}
	if err := p.Flush(); err != nil {
		return fmt.Errorf("writing the table %s: %w", name, err)
	}
	return nil
}

// printer writes a table. Its Writer remembers the first error.
type printer struct {
	*bufio.Writer
	*speller
}

func (p *printer) line(indent int, parts ...string) {
	for range indent {
		_ = p.WriteByte('\t')
	}
	for _, part := range parts {
		_, _ = p.WriteString(part)
	}
	_ = p.WriteByte('\n')
}

func (p *printer) table(t Table, name string) error {
	if err := identifier("table", name); err != nil {
		return err
	}
	p.line(0, "table ", familyName(t.Family), " ", name, " {")
	for _, h := range t.Helpers {
		if err := p.helper(h); err != nil {
			return err
		}
	}
	for _, f := range t.Flowtables {
		if err := p.flowtable(f); err != nil {
			return err
		}
	}
	for i := range t.Sets {
		if p.inner[t.Sets[i].Name] {
			continue
		}
		if err := p.set(&t.Sets[i]); err != nil {
			return err
		}
	}
	for i := range t.Chains {
		if err := p.chain(&t.Chains[i]); err != nil {
			return err
		}
	}
	p.line(0, "}")
	if len(t.Bridge) > 0 {
		return p.table(Table{Family: BridgeFamily, Chains: t.Bridge}, BridgeTable(name, t.Family))
	}
	return nil
}

func familyName(f gateway.Family) string {
	switch f {
	case gateway.IPv6:
		return "ip6"
	case BridgeFamily:
		return "bridge"
	}
	return "ip"
}

func (p *printer) helper(h gateway.Helper) error {
	if err := identifier("helper", h.Name); err != nil {
		return err
	}
	if !known(h.Protocol) {
		return fmt.Errorf("helper %s: nft(8) cannot spell the protocol %q", h.Name, h.Protocol)
	}
	p.line(1, "ct helper ", h.Name, " {")
	p.line(2, `type "`, h.Name, `" protocol `, string(h.Protocol))
	p.line(2, "l3proto ", familyName(p.family))
	p.line(1, "}")
	return nil
}

func (p *printer) flowtable(f Flowtable) error {
	if err := identifier("flowtable", f.Name); err != nil {
		return err
	}
	p.line(1, "flowtable ", f.Name, " {")
	p.line(2, fmt.Sprintf("hook ingress priority %d", f.Priority))
	var links []string
	for _, link := range f.Links {
		text, err := spellLink(link)
		if err != nil {
			return fmt.Errorf("flowtable %s: %w", f.Name, err)
		}
		links = append(links, text)
	}
	if len(links) > 0 {
		p.line(2, "devices = { ", strings.Join(links, ", "), " }")
	}
	if f.Counters {
		p.line(2, "counter")
	}
	p.line(1, "}")
	return nil
}

func known(protocol gateway.Protocol) bool {
	return protocol == gateway.TCP || protocol == gateway.UDP || protocol == gateway.SCTP
}

func (p *printer) set(s *Set) error {
	kind := "set"
	if s.IsMap() {
		kind = "map"
	}
	if err := identifier(kind, s.Name); err != nil {
		return err
	}
	p.line(1, kind, " ", s.Name, " {")
	p.line(2, p.typeOf(s))
	if s.Size > 0 {
		p.line(2, fmt.Sprintf("size %d", s.Size))
	}
	switch {
	case s.Dynamic:
		p.line(2, "flags dynamic,timeout")
	case s.Interval:
		p.line(2, "flags interval")
	}
	if s.Counters {
		p.line(2, "counter")
	}
	if err := p.elements(s); err != nil {
		return fmt.Errorf("%s %s: %w", kind, s.Name, err)
	}
	p.line(1, "}")
	return nil
}

// elements writes one element per line.
func (p *printer) elements(s *Set) error {
	if s.Dynamic || len(s.Elements) == 0 {
		return nil
	}
	p.line(2, "elements = {")
	for i := range s.Elements {
		text, err := p.element(s, &s.Elements[i])
		if err != nil {
			return err
		}
		p.line(3, text, ",")
	}
	p.line(2, "}")
	return nil
}

func (p *printer) element(s *Set, e *Element) (string, error) {
	text, err := spellKey(s.Key, e.Key, e.Last, p.isRandom(s))
	if err != nil || !s.IsMap() {
		return text, err
	}
	verdict := e.Verdict
	if joined := p.joined[s.Name]; joined != nil {
		verdict = joined[strings.TrimPrefix(e.Data, "\x00\x00\x00\x00")]
	} else if s.Data[0] != VerdictType {
		data, err := spellKey(s.Data, e.Data, "", false)
		return text + " : " + data, err
	}
	data, err := spellVerdict(verdict)
	return text + " : " + data, err
}

func (p *printer) chain(c *Chain) error {
	if err := identifier("chain", c.Name); err != nil {
		return err
	}
	p.line(1, "chain ", c.Name, " {")
	if h := c.Hook; h != nil {
		if int(h.Point) >= len(hookNames) || identifier("type", string(h.Type)) != nil {
			return fmt.Errorf("chain %s: nft(8) cannot spell the hook %d of the type %q", c.Name, h.Point, h.Type)
		}
		p.line(2, fmt.Sprintf("type %s hook %s priority %d; policy accept;", h.Type, hookNames[h.Point], h.Priority))
	}
	for i := range c.Rules {
		text, err := p.Rule(&c.Rules[i])
		if err != nil {
			p.line(2, "# nft(8) cannot spell this rule: ", oneLine(text), ": ", oneLine(err.Error()))
			continue
		}
		p.line(2, text)
	}
	p.line(1, "}")
	return nil
}

// hookNames are the names of the hooks, by number.
var hookNames = [...]string{Prerouting: "prerouting", Input: "input", Forward: "forward", Output: "output", Postrouting: "postrouting"}

// identifier returns an error unless nft(8) reads the name without quotes ("Lexical conventions"). It does not know the keywords.
func identifier(what, name string) error {
	for i := range len(name) {
		c := name[i] | 0x20
		letter := 'a' <= c && c <= 'z'
		if !letter && (i == 0 || !strings.ContainsRune("0123456789-_.", rune(name[i]))) {
			return fmt.Errorf("nft(8) cannot spell the name %q of a %s", name, what)
		}
	}
	if name == "" {
		return fmt.Errorf("a %s has no name", what)
	}
	return nil
}

// oneLine makes a text part of a comment, which ends with its line.
func oneLine(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, text)
}
