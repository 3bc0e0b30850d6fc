// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package ruleset

import (
	"cmp"
	"slices"
	"strings"
)

// Diff returns the smallest batch of whole chains that changes have to want. Chains whose names begin with chainPrefix are
// ours, and so are the rules of built-in chains that jump or go to them; nothing else is touched. A want without tables
// removes everything of ours.
//
// A chain of ours that another program's chain still references is emptied but not deleted, because the kernel would refuse
// that. The same goes for a chain that a rule of a built-in chain references if iptables-restore cannot express the rule's
// deletion, for example because its comment contains a newline.
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

// table returns the table with this name, or an empty one.
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
	// held are our chains that a remaining rule references. isHeld computes them on first use.
	held map[string]bool
}

// diff merges the sorted chains of both tables.
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
		case len(have) > 0 && have[0] == want[0]: // common: both share the chain
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

// sameRules compares rules, which are mostly the same slice.
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

// unwanted deletes an unwanted chain of ours, or empties it if it is held.
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

// jumps makes want the only rules of ours in a built-in chain and puts them at the top. A rule can only be deleted by its
// text, because its number may have changed since the read, and that deletes the first of equal rules. So if one rule of ours
// is out of place, all are deleted and inserted again.
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

// isOurs reports whether a rule of a built-in chain is ours to delete.
func (d *differ) isOurs(r *Rule) bool {
	if !d.leadsToUs(*r) {
		return false
	}
	_, writable := r.append(nil)
	return writable
}

// isHeld reports whether a remaining rule references a chain of ours. It is only needed when chains are deleted, which is
// rare.
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
