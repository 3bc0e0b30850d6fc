// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package netfilter

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"

	"github.com/smartnat/smartnat/pkg/gateway"
)

// Batch is what one run of iptables-restore --noflush changes in one family. Each table is committed on its own, in the
// order of Tables.
type Batch struct {
	Family Family
	Tables []TableBatch
}

// TableBatch is what changes in one table, at once.
type TableBatch struct {
	Name string
	// Write are chains of ours that are created, or emptied and filled anew.
	Write []Chain
	// Remove are rules that leave built-in chains, one by one.
	Remove []ChainRule
	// Insert are rules that come to stand first in built-in chains, in this order.
	Insert []ChainRule
	// Delete are chains of ours that go.
	Delete []string
}

// ChainRule is a rule of a chain.
type ChainRule struct {
	Chain string
	Rule  Rule
}

func (t *TableBatch) empty() bool {
	return len(t.Write)+len(t.Remove)+len(t.Insert)+len(t.Delete) == 0
}

// Empty reports whether there is nothing to do.
func (b Batch) Empty() bool { return len(b.Tables) == 0 }

// Chains counts the chains of ours that are created, rewritten or deleted.
func (b Batch) Chains() int {
	n := 0
	for _, t := range b.Tables {
		n += len(t.Write) + len(t.Delete)
	}
	return n
}

// Rules counts the rules that are written or removed one by one.
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

// Text is the input of iptables-restore --noflush, to be read. What can be written is said by AppendText.
func (b Batch) Text() []byte {
	text, _ := b.AppendText(nil)
	return text
}

// AppendText appends the Text to dst. The error is a gateway.ErrRefused where a rule or a name holds something that
// iptables-restore would not read as what it is: nothing of such a text may be written.
func (b Batch) AppendText(dst []byte) ([]byte, error) {
	// About as long as a rule and a chain are. Many small steps would leave several times the text behind.
	dst = slices.Grow(dst, b.Rules()*152+b.Chains()*96)
	w := batchWriter{b: dst}
	for i := range b.Tables {
		b.Tables[i].append(&w)
	}
	return w.b, w.err
}

// batchWriter keeps the first of what cannot be written.
type batchWriter struct {
	b   []byte
	err error
}

func (w *batchWriter) declaration(chain string) {
	w.name(":", chain)
	w.b = append(w.b, " - [0:0]\n"...)
}

// rule adds the rule behind its command and chain.
func (w *batchWriter) rule(chain string, r *Rule) {
	var ok bool
	if w.b, ok = r.append(w.b); !ok && w.err == nil {
		w.err = fmt.Errorf("a rule of chain %q has no spelling that iptables reads as what it is, %q: %w", chain, r.String(), gateway.ErrRefused)
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
		w.err = fmt.Errorf("%q is no name of a chain or a table: %w", name, gateway.ErrRefused)
	}
}

// append writes one table. All chains are declared first, so that every jump finds its target: a declaration creates a
// chain or empties it. Built-in chains are never declared, as that would set their policy.
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
			continue // as its declaration has found
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

// position is where the i-th insertion comes to stand in its chain, from 1: behind the earlier ones of the same chain.
func (t *TableBatch) position(i int) int {
	n := 1
	for _, before := range t.Insert[:i] {
		if before.Chain == t.Insert[i].Chain {
			n++
		}
	}
	return n
}

// Render returns the complete input of iptables-restore --noflush for a host that has nothing of ours.
func Render(want Ruleset) []byte { return Diff(Ruleset{}, want, "").Text() }

// Apply returns what the kernel holds after the batch, if it held have before. It shares chains with both.
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

// fill has a chain that is there hold these rules, in a list of chains that is its own.
func (t Table) fill(chain string, rules []Rule) {
	if i, found := t.find(chain); found {
		filled := *t.Chains[i]
		filled.Rules = rules
		t.Chains[i] = &filled
	}
}
