// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/netfilter"
	"github.com/smartnat/smartnat/pkg/rules"
)

// tryChain begins the names of chains that nothing leads to, behind our prefix. No chain that is built has a name like that.
const tryChain = "TRY-"

// Try finds out whether rules that the state asks for are refused, and changes nothing that a packet meets: they are written
// to chains that nothing leads to. The next Apply, which has to read the tables for it, removes them. A family of which nothing
// is asked is left alone, unless nothing is asked at all. Each source of a long list is a rule there: the set may not be there.
func (d *Dataplane) Try(ctx context.Context, state gateway.State) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	var errs []error
	for _, name := range d.opts.IPTables.Families() {
		if asksNothing(state, name) && !asksNothing(state, 0) {
			continue
		}
		f := d.family(name)
		if err := f.unlessHung(ctx, func() error {
			batch := d.aside(rules.Build(state, name, d.ruleOptions(false)))
			f.forget()
			return d.opts.IPTables.Restore(ctx, batch)
		}); err != nil {
			errs = append(errs, fmt.Errorf("trying rules in the IPv%d tables: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

// asksNothing reports whether nothing is asked for in the family, or, where that is 0, in any.
func asksNothing(state gateway.State, family netfilter.Family) bool {
	of := func(a netip.Addr) bool { return family == 0 || a.Is6() == (family == netfilter.IPv6) }
	return !slices.ContainsFunc(state.Forwards, func(f *gateway.Forward) bool { return of(f.Address) }) &&
		!slices.ContainsFunc(state.Egresses, func(e gateway.Egress) bool { return of(e.Address) })
}

// aside returns the batch that writes chains of ours under other names. Built-in chains lead to none of these.
func (d *Dataplane) aside(rs netfilter.Ruleset) netfilter.Batch {
	batch := netfilter.Batch{Family: rs.Family}
	for _, table := range rs.Tables {
		names := map[string]string{}
		for _, c := range table.Chains {
			if strings.HasPrefix(c.Name, d.opts.Ownership.ChainPrefix) {
				names[c.Name] = d.opts.Ownership.ChainPrefix + tryChain + strconv.Itoa(len(names))
			}
		}
		written := netfilter.TableBatch{Name: table.Name}
		for _, c := range table.Chains {
			name, ours := names[c.Name]
			if !ours {
				continue
			}
			renamed := netfilter.Chain{Name: name, Rules: make([]netfilter.Rule, 0, len(c.Rules))}
			for _, r := range c.Rules {
				if to, ours := names[r.Target.Chain]; ours {
					r.Target.Chain = to
				}
				renamed.Rules = append(renamed.Rules, r)
			}
			written.Write = append(written.Write, renamed)
		}
		batch.Tables = append(batch.Tables, written)
	}
	return batch
}

// forget has the tables read before they are written again: what they hold now is not what was written, and what is missing
// there was taken away by nobody else.
func (f *family) forget() { f.known, f.written = false, netfilter.Ruleset{} }
