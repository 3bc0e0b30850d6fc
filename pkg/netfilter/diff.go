// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package netfilter

import (
	"cmp"
	"slices"
	"strings"
)

// Diff returns the smallest batch of whole chains that leads from have to want. Ours are the chains whose name begins with
// chainPrefix, and the rules of built-in chains that jump or go to them; nothing else is touched. A want without
// tables removes all of ours.
//
// A chain of ours that another program's chain still leads to is emptied and not deleted: the kernel would refuse. So is
// one that a rule of a built-in chain leads to which iptables-restore cannot be told to remove, such as one whose comment
// holds a newline.
func Diff(have, want Ruleset, chainPrefix string) Batch {
	b := Batch{Family: cmp.Or(want.Family, have.Family)}
	var names []string
	for _, t := range slices.Concat(have.Tables, want.Tables) {
		names = append(names, t.Name)
	}
	slices.SortFunc(names, compareTables)
	names = slices.Compact(names)
	if len(want.Tables) == 0 {
		slices.Reverse(names)
	}
	for _, name := range names {
		d := differ{prefix: chainPrefix, have: have.table(name), want: want.table(name)}
		if batch := d.diff(); !batch.empty() {
			b.Tables = append(b.Tables, batch)
		}
	}
	return b
}

// table returns the table of this name, or an empty one.
func (rs Ruleset) table(name string) Table {
	for _, t := range rs.Tables {
		if t.Name == name {
			return t
		}
	}
	return Table{Name: name}
}

func (t Table) find(chain string) (int, bool) {
	return slices.BinarySearchFunc(t.Chains, chain, func(c *Chain, name string) int { return cmp.Compare(c.Name, name) })
}

func builtIn(chain string) bool {
	switch chain {
	case "PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING":
		return true
	}
	return false
}

type differ struct {
	prefix     string
	have, want Table
	// held are the chains of ours that a rule that stays leads to, nil until that is asked.
	held map[string]bool
}

// diff walks through the chains of both tables, which are sorted.
func (d *differ) diff() TableBatch {
	b := TableBatch{Name: d.have.Name}
	have, want := d.have.Chains, d.want.Chains
	if len(have) == len(want) && len(have) > 0 && &have[0] == &want[0] {
		return b
	}
	for len(have)+len(want) > 0 {
		order := 1
		switch {
		case len(want) == 0:
			order = -1
		case len(have) > 0 && have[0] == want[0]: // as most are
			have, want = have[1:], want[1:]
			continue
		case len(have) > 0:
			order = strings.Compare(have[0].Name, want[0].Name)
		}
		switch {
		case order < 0:
			d.unwanted(&b, have[0])
			have = have[1:]
		case order > 0:
			d.differing(&b, &Chain{Name: want[0].Name}, want[0])
			want = want[1:]
		default:
			if !sameRules(have[0].Rules, want[0].Rules) {
				d.differing(&b, have[0], want[0])
			}
			have, want = have[1:], want[1:]
		}
	}
	return b
}

// sameRules compares rules, which are mostly one and the same slice.
func sameRules(x, y []Rule) bool {
	return len(x) == len(y) && (len(x) == 0 || &x[0] == &y[0] || slices.Equal(x, y))
}

func (d *differ) differing(b *TableBatch, have, want *Chain) {
	if builtIn(want.Name) {
		d.jumps(b, have, want.Rules)
	} else {
		b.Write = append(b.Write, *want)
	}
}

// unwanted has a chain that is not wanted go, if it is ours.
func (d *differ) unwanted(b *TableBatch, have *Chain) {
	switch {
	case builtIn(have.Name):
		d.jumps(b, have, nil)
	case !strings.HasPrefix(have.Name, d.prefix):
	case !d.isHeld(have.Name):
		b.Delete = append(b.Delete, have.Name)
	case len(have.Rules) > 0:
		b.Write = append(b.Write, Chain{Name: have.Name})
	}
}

// jumps sees to it that of all our rules the built-in chain holds just want, and holds it first. As a rule can be deleted
// by its text alone (its number may have changed since it was read), and that deletes the first of equal ones, all of
// ours make way when one is not where it should be.
func (d *differ) jumps(b *TableBatch, have *Chain, want []Rule) {
	var ours []Rule
	for _, r := range have.Rules {
		if d.isOurs(&r) {
			ours = append(ours, r)
		}
	}
	if len(ours) == len(want) && slices.Equal(have.Rules[:len(want)], want) {
		return
	}
	for _, r := range ours {
		b.Remove = append(b.Remove, ChainRule{have.Name, r})
	}
	for _, r := range want {
		b.Insert = append(b.Insert, ChainRule{have.Name, r})
	}
}

func (d *differ) leadsToUs(r Rule) bool {
	return r.Target.Chain != "" && strings.HasPrefix(r.Target.Chain, d.prefix)
}

// isOurs tells whether a rule of a built-in chain is ours to remove.
func (d *differ) isOurs(r *Rule) bool {
	if !d.leadsToUs(*r) {
		return false
	}
	_, writable := r.append(nil)
	return writable
}

// isHeld tells whether a rule that stays leads to a chain of ours. It is asked where chains go, which is seldom.
func (d *differ) isHeld(chain string) bool {
	if d.held == nil {
		d.held = map[string]bool{}
		for _, c := range d.have.Chains {
			if strings.HasPrefix(c.Name, d.prefix) {
				continue
			}
			for _, r := range c.Rules {
				if d.leadsToUs(r) && (!builtIn(c.Name) || !d.isOurs(&r)) {
					d.held[r.Target.Chain] = true
				}
			}
		}
	}
	return d.held[chain]
}
