// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package netfilter

import (
	"cmp"
	"slices"
	"strconv"
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

// Text is the input of iptables-restore --noflush.
func (b Batch) Text() []byte { return b.AppendText(nil) }

// AppendText appends the Text to dst.
func (b Batch) AppendText(dst []byte) []byte {
	// About as long as a rule and a chain are. Many small steps would leave several times the text behind.
	dst = slices.Grow(dst, b.Rules()*152+b.Chains()*96)
	for i := range b.Tables {
		dst = b.Tables[i].append(dst)
	}
	return dst
}

// append writes one table. All chains are declared first, so that every jump finds its target: a declaration creates a
// chain or empties it. Built-in chains are never declared, as that would set their policy.
func (t *TableBatch) append(b []byte) []byte {
	b = append(append(append(b, '*'), t.Name...), '\n')
	for _, c := range t.Write {
		b = appendDeclaration(b, c.Name)
	}
	for _, name := range t.Delete {
		b = appendDeclaration(b, name)
	}
	for i := range t.Remove {
		r := &t.Remove[i]
		b = appendCommand(b, "-D ", r.Chain)
		b = append(r.Rule.append(b), '\n')
	}
	for i := range t.Insert {
		r := &t.Insert[i]
		b = appendCommand(b, "-I ", r.Chain)
		b = append(strconv.AppendInt(b, int64(t.position(i)), 10), ' ')
		b = append(r.Rule.append(b), '\n')
	}
	for _, c := range t.Write {
		for i := range c.Rules {
			b = appendCommand(b, "-A ", c.Name)
			b = append(c.Rules[i].append(b), '\n')
		}
	}
	for _, name := range t.Delete {
		b = append(append(append(b, "-X "...), name...), '\n')
	}
	return append(b, "COMMIT\n"...)
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

func appendDeclaration(b []byte, chain string) []byte {
	return append(append(append(b, ':'), chain...), " - [0:0]\n"...)
}

func appendCommand(b []byte, command, chain string) []byte {
	return append(append(append(b, command...), chain...), ' ')
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
