// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package ruleset

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"

	"github.com/smartnat/smartnat/pkg/gateway"
)

// Batch is the change that one run of iptables-restore --noflush makes in one family. Each table is a separate transaction,
// in the order of Tables.
type Batch struct {
	Family gateway.Family
	Tables []TableBatch
}

// TableBatch is the change of one table in one transaction.
type TableBatch struct {
	Name string
	// Write are chains of ours to create or to replace.
	Write []Chain
	// Remove are rules to delete from built-in chains one by one.
	Remove []ChainRule
	// Insert are rules to insert at the top of built-in chains, in this order.
	Insert []ChainRule
	// Delete are chains of ours to delete.
	Delete []string
}

// ChainRule is a rule in a chain.
type ChainRule struct {
	Chain string
	Rule  Rule
}

func (t *TableBatch) empty() bool {
	return len(t.Write)+len(t.Remove)+len(t.Insert)+len(t.Delete) == 0
}

// Empty reports whether the batch changes nothing.
func (b Batch) Empty() bool { return len(b.Tables) == 0 }

// Chains returns the number of our chains that are created, replaced or deleted.
func (b Batch) Chains() int {
	n := 0
	for _, t := range b.Tables {
		n += len(t.Write) + len(t.Delete)
	}
	return n
}

// Rules returns the number of rules that are written or deleted one by one.
func (b Batch) Rules() int {
	n := 0
	for _, t := range b.Tables {
		n += len(t.Remove) + len(t.Insert)
		for _, c := range t.Write {
			n += len(c.Rules)
		}
	}
	return n
}

// Text returns the input of iptables-restore --noflush for display. Use AppendText to write it.
func (b Batch) Text() []byte {
	text, _ := b.AppendText(nil)
	return text
}

// AppendText appends the Text to dst. It returns gateway.ErrRefused if iptables-restore would misread a rule or a name. None
// of such a text may be written.
func (b Batch) AppendText(dst []byte) ([]byte, error) {
	// Typical lengths of a rule and a chain. Growing in many small steps would leave garbage of several times the size of the
	// text.
	dst = slices.Grow(dst, b.Rules()*152+b.Chains()*96)
	w := batchWriter{b: dst}
	for i := range b.Tables {
		b.Tables[i].append(&w)
	}
	return w.b, w.err
}

// batchWriter builds the text and keeps the first error.
type batchWriter struct {
	b   []byte
	err error
}

func (w *batchWriter) declaration(chain string) {
	w.name(":", chain)
	w.b = append(w.b, " - [0:0]\n"...)
}

// rule adds the rule after its command and chain.
func (w *batchWriter) rule(chain string, r *Rule) {
	var ok bool
	if w.b, ok = r.append(w.b); !ok && w.err == nil {
		w.err = fmt.Errorf("a rule of chain %q cannot be expressed for iptables-restore, %q: %w", chain, r.String(), gateway.ErrRefused)
	}
	w.b = append(w.b, '\n')
}

func (w *batchWriter) name(command, name string) {
	w.b = append(w.b, command...)
	if isWord(name) {
		w.b = append(w.b, name...)
		return
	}
	w.b = appendEscaped(w.b, name)
	if w.err == nil {
		w.err = fmt.Errorf("%q is not a valid name of a chain or table: %w", name, gateway.ErrRefused)
	}
}

// append writes one table. It declares all chains first, so that every jump finds its target. A declaration creates or
// empties a chain. Built-in chains are never declared, because that would set their policy.
func (t *TableBatch) append(w *batchWriter) {
	w.name("*", t.Name)
	w.b = append(w.b, '\n')
	for _, c := range t.Write {
		w.declaration(c.Name)
	}
	for _, name := range t.Delete {
		w.declaration(name)
	}
	for i := range t.Remove {
		w.name("-D ", t.Remove[i].Chain)
		w.b = append(w.b, ' ')
		w.rule(t.Remove[i].Chain, &t.Remove[i].Rule)
	}
	for i := range t.Insert {
		w.name("-I ", t.Insert[i].Chain)
		w.b = append(strconv.AppendInt(append(w.b, ' '), int64(t.position(i)), 10), ' ')
		w.rule(t.Insert[i].Chain, &t.Insert[i].Rule)
	}
	for _, c := range t.Write {
		if !isWord(c.Name) {
			continue // the declaration already reported the name
		}
		for i := range c.Rules {
			w.b = append(append(append(w.b, "-A "...), c.Name...), ' ')
			w.rule(c.Name, &c.Rules[i])
		}
	}
	for _, name := range t.Delete {
		w.name("-X ", name)
		w.b = append(w.b, '\n')
	}
	w.b = append(w.b, "COMMIT\n"...)
}

// position returns the position of the i-th insertion in its chain, counted from 1, after earlier insertions into the same
// chain.
func (t *TableBatch) position(i int) int {
	n := 1
	for _, before := range t.Insert[:i] {
		if before.Chain == t.Insert[i].Chain {
			n++
		}
	}
	return n
}

// Render returns the complete input of iptables-restore --noflush for a host without any rules of ours.
func Render(want Ruleset) []byte { return Diff(Ruleset{}, want, "").Text() }

// Apply returns the rules after the batch if they were have before. The result shares chains with both.
func Apply(have Ruleset, b Batch) Ruleset {
	after := Ruleset{Family: cmp.Or(have.Family, b.Family), Tables: slices.Clone(have.Tables)}
	for _, t := range b.Tables {
		i := slices.IndexFunc(after.Tables, func(o Table) bool { return o.Name == t.Name })
		if i < 0 {
			i = len(after.Tables)
			after.Tables = append(after.Tables, Table{Name: t.Name})
		}
		after.Tables[i].Chains = t.apply(after.Tables[i])
	}
	slices.SortFunc(after.Tables, func(a, b Table) int { return compareTables(a.Name, b.Name) })
	return after
}

func (t *TableBatch) apply(have Table) []*Chain {
	have.Chains = slices.DeleteFunc(slices.Clone(have.Chains), func(c *Chain) bool {
		_, gone := slices.BinarySearch(t.Delete, c.Name)
		return gone
	})
	var created []*Chain
	for _, c := range t.Write {
		if _, found := have.find(c.Name); found {
			have.fill(c.Name, c.Rules)
		} else {
			created = append(created, &c)
		}
	}
	have.Chains = append(have.Chains, created...)
	slices.SortFunc(have.Chains, func(a, b *Chain) int { return cmp.Compare(a.Name, b.Name) })
	for _, r := range t.Remove {
		if i, found := have.find(r.Chain); found {
			rules := have.Chains[i].Rules
			if at := slices.Index(rules, r.Rule); at >= 0 {
				have.fill(r.Chain, slices.Concat(rules[:at], rules[at+1:]))
			}
		}
	}
	for n, r := range t.Insert {
		i, found := have.find(r.Chain)
		if !found {
			have.Chains = slices.Insert(have.Chains, i, &Chain{Name: r.Chain})
		}
		have.fill(r.Chain, slices.Insert(slices.Clone(have.Chains[i].Rules), t.position(n)-1, r.Rule))
	}
	return have.Chains
}

// fill replaces the rules of a chain in t, whose list of chains must not be shared.
func (t Table) fill(chain string, rules []Rule) {
	if i, found := t.find(chain); found {
		filled := *t.Chains[i]
		filled.Rules = rules
		t.Chains[i] = &filled
	}
}
