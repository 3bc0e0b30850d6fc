// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package netfilter

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Parse reads what iptables-save or ip6tables-save of either back end printed, with or without counters. A rule that says
// something that SmartNat never says is Foreign, never an error.
func Parse(family Family, save []byte) (Ruleset, error) {
	p := parser{family: family, names: map[string]string{}}
	number := 0
	for line := range strings.Lines(string(save)) {
		number++
		line = strings.TrimSuffix(line, "\n")
		if err := p.line(line); err != nil {
			return Ruleset{}, fmt.Errorf("reading line %d of the saved rules, %q: %w", number, line, err)
		}
	}
	if p.chains != nil {
		return Ruleset{}, fmt.Errorf("reading the saved rules: table %s ends without COMMIT", p.table)
	}
	slices.SortFunc(p.tables, func(a, b Table) int { return compareTables(a.Name, b.Name) })
	return Ruleset{Family: family, Tables: p.tables}, nil
}

// tableOrder is the order in which the tables that we write may safely be written.
var tableOrder = []string{"mangle", "filter", "nat"}

func compareTables(a, b string) int {
	place := func(name string) int {
		if i := slices.Index(tableOrder, name); i >= 0 {
			return i
		}
		return len(tableOrder)
	}
	return cmp.Or(cmp.Compare(place(a), place(b)), cmp.Compare(a, b))
}

type parser struct {
	family Family
	tables []Table
	// table and chains are those being read; chains is nil between tables.
	table  string
	chains map[string]*Chain
	// names keeps one copy of each name, and none of the lines alive that hold it.
	names  map[string]string
	tokens []string
}

func (p *parser) line(line string) error {
	switch {
	case line == "" || line[0] == '#':
		return nil
	case line[0] == '*':
		return p.begin(line[1:])
	case p.chains == nil:
		return errors.New("it stands outside of any table")
	case line == "COMMIT":
		p.commit()
		return nil
	case line[0] == ':':
		return p.declare(line[1:])
	}
	if line[0] == '[' {
		_, line, _ = strings.Cut(line, " ")
	}
	text, found := strings.CutPrefix(line, "-A ")
	if !found {
		return errors.New("it is neither a chain nor a rule")
	}
	name, text, _ := strings.Cut(text, " ")
	chain := p.chains[name]
	if chain == nil {
		return errors.New("its chain was not declared")
	}
	chain.Rules = append(chain.Rules, p.rule(text))
	return nil
}

func (p *parser) begin(table string) error {
	if p.chains != nil {
		return fmt.Errorf("table %s has not ended", p.table)
	}
	if slices.ContainsFunc(p.tables, func(t Table) bool { return t.Name == table }) {
		return errors.New("the table was there before")
	}
	p.table, p.chains = strings.Clone(table), map[string]*Chain{}
	return nil
}

func (p *parser) declare(line string) error {
	name, rest, found := strings.Cut(line, " ")
	if !found {
		return errors.New("it is not a chain")
	}
	if p.chains[name] != nil {
		return errors.New("the chain was declared before")
	}
	chain := &Chain{Name: p.name(name)}
	if policy, _, _ := strings.Cut(rest, " "); policy != "-" {
		chain.Policy = p.name(policy)
	}
	p.chains[chain.Name] = chain
	return nil
}

func (p *parser) commit() {
	table := Table{Name: p.table, Chains: make([]*Chain, 0, len(p.chains))}
	for _, c := range p.chains {
		table.Chains = append(table.Chains, c)
	}
	slices.SortFunc(table.Chains, func(a, b *Chain) int { return cmp.Compare(a.Name, b.Name) })
	p.tables = append(p.tables, table)
	p.chains = nil
}

func (p *parser) name(s string) string {
	if kept, found := p.names[s]; found {
		return kept
	}
	kept := strings.Clone(s)
	p.names[kept] = kept
	return kept
}

func (p *parser) rule(text string) Rule {
	tokens, err := split(p.tokens[:0], text)
	p.tokens = tokens
	r := ruleParser{parser: p, tokens: tokens}
	if err == nil && r.parse() {
		return r.rule
	}
	foreign := Rule{Foreign: strings.Clone(text)}
	for i, token := range tokens[:max(len(tokens)-1, 0)] {
		if verb, found := jumps[token]; found && p.chains[tokens[i+1]] != nil {
			foreign.Target = Target{Verb: verb, Chain: p.name(tokens[i+1])}
		}
	}
	return foreign
}

var jumps = map[string]Verb{"-j": Jump, "-g": Goto}

// split appends the words of text to words, without their quotes and escapes (iptables-save quotes as
// xtables_save_string does: inside double quotes a backslash stands before a quote or a backslash).
func split(words []string, text string) ([]string, error) {
	for text = strings.TrimLeft(text, " "); text != ""; text = strings.TrimLeft(text, " ") {
		if text[0] != '"' {
			var word string
			word, text, _ = strings.Cut(text, " ")
			words = append(words, word)
			continue
		}
		word, rest, err := unquote(text[1:])
		if err != nil {
			return words, err
		}
		words, text = append(words, word), rest
	}
	return words, nil
}

func unquote(text string) (word, rest string, err error) {
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		switch {
		case text[i] == '"':
			return b.String(), text[i+1:], nil
		case text[i] == '\\' && i+1 < len(text):
			i++
		}
		b.WriteByte(text[i])
	}
	return "", "", errors.New("a quote is not closed")
}
