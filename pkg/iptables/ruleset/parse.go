// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package ruleset

import (
	"cmp"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"

	"github.com/smartnat/smartnat/pkg/gateway"
)

// Parse reads the output of iptables-save or ip6tables-save of either variant, with or without counters. A rule with
// anything that SmartNat never writes becomes Foreign, and a line that makes no sense is skipped, because other programs may
// use any names. An error means that the output is incomplete.
func Parse(family gateway.Family, save []byte) (Ruleset, error) {
	p := parser{family: family, names: map[string]string{}}
	for line := range Lines(string(save)) {
		if err := p.line(line); err != nil {
			return Ruleset{}, fmt.Errorf("reading the saved rules, %q: %w", line, err)
		}
	}
	if p.chains != nil {
		return Ruleset{}, fmt.Errorf("reading the saved rules: table %s ends without COMMIT", p.table)
	}
	slices.SortFunc(p.tables, func(a, b Table) int { return compareTables(a.Name, b.Name) })
	return Ruleset{Family: family, Tables: p.tables}, nil
}

// Lines yields the lines of iptables-save output without their newlines. A newline within quotes does not end a line: a
// comment may contain one, and the text after it is not a rule, whatever it looks like.
func Lines(save string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for save != "" {
			line, rest, _ := strings.Cut(save, "\n")
			if strings.HasPrefix(line, "-A ") || strings.HasPrefix(line, "[") {
				if n := ruleEnd(save); n > len(line) {
					line, rest = save[:n], save[min(n+1, len(save)):]
				}
			}
			if !yield(line) {
				return
			}
			save = rest
		}
	}
}

// ruleEnd returns the length of the rule at the beginning of text, which ends at the first newline outside quotes. An
// unclosed quote does not count as one.
func ruleEnd(text string) int {
	for at := 0; ; {
		next := strings.IndexAny(text[at:], "\"\n")
		switch {
		case next < 0:
			return len(text)
		case text[at+next] == '\n':
			return at + next
		}
		at += next + 1
		if !opensQuote(text[:at-1]) {
			continue
		}
		n := quoteEnd(text[at:])
		if n < 0 {
			return at + strings.IndexByte(text[at:]+"\n", '\n')
		}
		at += n
	}
}

// opensQuote reports whether a quote after this text begins a quoted word. Names of links are printed unquoted and may
// contain quotes.
func opensQuote(before string) bool {
	option, found := strings.CutSuffix(before, " ")
	if !found {
		return false
	}
	switch option[strings.LastIndexByte(option, ' ')+1:] {
	case "-i", "-o", "--physdev-in", "--physdev-out":
		return false
	}
	return true
}

// quoteEnd returns the position after the closing quote in text, which follows an opening quote, or -1 if there is none.
func quoteEnd(text string) int {
	for at := 0; ; {
		next := strings.IndexAny(text[at:], `"\`)
		if next < 0 {
			return -1
		}
		at += next + 1
		if text[at-1] == '"' {
			return at
		}
		at = min(at+1, len(text))
	}
}

// tableOrder is the order in which our tables can be written safely. The last one may be refused: the kernel may lack a helper.
var tableOrder = []string{"mangle", "filter", "nat", "raw"}

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
	family gateway.Family
	tables []Table
	// table and chains are the ones being read; chains is nil between tables.
	table  string
	chains map[string]*Chain
	// names interns names, so that they do not keep the lines alive.
	names  map[string]string
	tokens []string
}

func (p *parser) line(line string) error {
	switch {
	case line == "":
	case line[0] == '*' && p.chains == nil && isWord(line[1:]):
		return p.begin(line[1:])
	case p.chains == nil:
	case line == "COMMIT":
		p.commit()
	case line[0] == ':':
		p.declare(line[1:])
	default:
		p.command(line)
	}
	return nil
}

func (p *parser) begin(table string) error {
	if slices.ContainsFunc(p.tables, func(t Table) bool { return t.Name == table }) {
		return errors.New("the table was there before")
	}
	p.table, p.chains = strings.Clone(table), map[string]*Chain{}
	return nil
}

func (p *parser) declare(line string) {
	name, rest, found := strings.Cut(line, " ")
	if !found || p.chains[name] != nil || !isWord(name) {
		return
	}
	chain := &Chain{Name: p.name(name)}
	if policy, _, _ := strings.Cut(rest, " "); policy != "-" {
		chain.Policy = p.name(policy)
	}
	p.chains[chain.Name] = chain
}

func (p *parser) command(line string) {
	if line[0] == '[' {
		_, line, _ = strings.Cut(line, " ")
	}
	text, found := strings.CutPrefix(line, "-A ")
	if !found {
		return
	}
	name, text, _ := strings.Cut(text, " ")
	if chain := p.chains[name]; chain != nil {
		chain.Rules = append(chain.Rules, p.rule(text))
	}
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

// split appends the words of text to words, without quotes and escapes. iptables-save quotes as xtables_save_string does:
// within double quotes, a backslash precedes a quote or a backslash.
func split(words []string, text string) ([]string, error) {
	for text = strings.TrimLeft(text, " "); text != ""; text = strings.TrimLeft(text, " ") {
		if text[0] != '"' || len(words) > 0 && !opensQuote(words[len(words)-1]+" ") {
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
