// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package iptables

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/iptables/rules"
	"github.com/smartnat/smartnat/pkg/iptables/ruleset"
)

// tryChain follows our prefix in the names of the trial chains, to which no rule jumps. No built chain has such a name.
const tryChain = "TRY-"

// Try implements dataplane.Ruleset. It does not affect packets, because it writes the rules to chains
// to which nothing jumps. The next Apply has to read the tables and removes these chains. Try skips a family without forwards
// and egresses, unless both families have none. A long list of sources becomes one rule for each source, because the set may
// not exist.
func (r *Ruleset) Try(ctx context.Context, state gateway.State) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var errs []error
	for _, name := range r.tried(state) {
		f := r.family(name)
		if err := f.unlessHung(ctx, func() error {
			batch := r.trial(rules.Build(state, name, r.ruleOptions(false)))
			f.forget()
			return r.opts.Program.Restore(ctx, batch)
		}); err != nil {
			errs = append(errs, fmt.Errorf("trying rules in the IPv%d tables: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

// tried returns the families that Try tries.
func (r *Ruleset) tried(state gateway.State) []gateway.Family {
	families := r.opts.Program.Families()
	if !state.Serves(gateway.IPv4) && !state.Serves(gateway.IPv6) {
		return families
	}
	return slices.DeleteFunc(families, func(f gateway.Family) bool { return !state.Serves(f) })
}

// RemoveTrial removes the chains that a Try of this state wrote, for a Ruleset that may not get an Apply. It does not read the
// tables.
func (r *Ruleset) RemoveTrial(ctx context.Context, state gateway.State) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var errs []error
	for _, name := range r.tried(state) {
		batch := r.trial(rules.Build(state, name, r.ruleOptions(false)))
		for i, t := range batch.Tables {
			batch.Tables[i].Write = nil
			for _, c := range t.Write {
				batch.Tables[i].Delete = append(batch.Tables[i].Delete, c.Name)
			}
			slices.Sort(batch.Tables[i].Delete)
		}
		if err := r.opts.Program.Restore(ctx, batch); err != nil {
			errs = append(errs, fmt.Errorf("removing trial rules from the IPv%d tables: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

// trial returns a batch that writes our chains under other names. Built-in chains do not jump to them.
func (r *Ruleset) trial(rs ruleset.Ruleset) ruleset.Batch {
	batch := ruleset.Batch{Family: rs.Family}
	for _, table := range rs.Tables {
		names := map[string]string{}
		for _, c := range table.Chains {
			if strings.HasPrefix(c.Name, r.opts.Ownership.ChainPrefix) {
				names[c.Name] = r.opts.Ownership.ChainPrefix + tryChain + strconv.Itoa(len(names))
			}
		}
		written := ruleset.TableBatch{Name: table.Name}
		for _, c := range table.Chains {
			name, ours := names[c.Name]
			if !ours {
				continue
			}
			renamed := ruleset.Chain{Name: name, Rules: make([]ruleset.Rule, 0, len(c.Rules))}
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

// forget makes the next Apply read the tables before it writes. It also clears the record of what was written, so that the
// differences do not count as damage by another process.
func (f *family) forget() { f.state, f.written = unknown, ruleset.Ruleset{} }
