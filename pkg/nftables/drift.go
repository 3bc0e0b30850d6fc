// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package nftables

import (
	"errors"
	"slices"
	"time"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/nftables/ruleset"
)

// drift tracks whether the table of one family still holds what was last written.
type drift struct {
	state driftState
	// generation belongs to a table that holds what was written, and that other processes may change.
	generation uint32
}

type driftState int

const (
	// unknown tables must be read: they never were, or a write failed.
	unknown driftState = iota
	// inSync tables hold what was written.
	inSync
	// suspect tables may have been written by another process. They are read when the budget permits.
	suspect
	// mustVerify tables are read, whatever the budget, unless the kernel proves that they did not change.
	mustVerify
)

func (d *drift) demandProof() {
	if d.state != unknown {
		d.state = mustVerify
	}
}

// compare finds out whether another process may have written the table. A table that this process owns proves itself.
func (r *Ruleset) compare(name gateway.Family, f *family) error {
	if f.state == unknown {
		return nil
	}
	exists, owned, err := r.opts.Kernel.Inspect(name)
	switch {
	case err != nil:
		return err
	case !exists:
		f.state = mustVerify
		return nil
	case owned:
		f.state = inSync
		return nil
	}
	generation, err := r.opts.Kernel.Generation()
	switch {
	case err != nil:
		return err
	case generation == f.generation:
		f.state = inSync
	case f.state == inSync:
		f.state = suspect
	}
	return nil
}

// mustRead reports whether only a reading tells what the table holds.
func (r *Ruleset) mustRead(f *family) bool {
	switch f.state {
	case inSync:
		return false
	case suspect:
		return r.readings.Allows(time.Now())
	}
	return true
}

// stampWrite records the generation after a transaction of ours. If another process wrote meanwhile, tables that it may have
// written are suspect.
func (r *Ruleset) stampWrite() {
	generation, err := r.opts.Kernel.Generation()
	for _, f := range r.families {
		switch {
		case f.state != inSync:
		case err == nil && f.generation+1 == generation:
			f.generation = generation
		default:
			f.state = suspect
		}
	}
}

// Drift implements dataplane.Ruleset.
func (r *Ruleset) Drift() (bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var errs []error
	found, due := false, false
	for name, f := range r.families {
		errs = append(errs, r.compare(name, f))
		found = found || f.state == suspect
		due = due || f.state == mustVerify || f.state == suspect && r.readings.Allows(time.Now())
	}
	if found && !due && r.changed != nil && r.later == nil {
		r.later = time.AfterFunc(time.Until(r.readings.Next()), r.changed)
	}
	if due {
		r.later = nil
	}
	return due, errors.Join(errs...)
}

// others returns the part of the damage that other processes did, without what halfway touched.
func (f *family) others(damage ruleset.Batch) ruleset.Batch {
	touched := map[string]bool{}
	for _, step := range f.halfway {
		for _, c := range slices.Concat(step.AddChains, step.ReplaceChains, step.DeleteChains) {
			touched["chain "+c.Name] = true
		}
		for _, s := range slices.Concat(step.AddSets, step.DeleteSets) {
			touched["set "+s.Name] = true
		}
		for _, e := range slices.Concat(step.AddElements, step.DeleteElements) {
			touched["set "+e.Set] = true
		}
	}
	if len(touched) == 0 {
		return damage
	}
	chain := func(c ruleset.Chain) bool { return touched["chain "+c.Name] }
	set := func(s ruleset.Set) bool { return touched["set "+s.Name] }
	elements := func(e ruleset.Elements) bool { return touched["set "+e.Set] }
	return ruleset.Batch{
		AddChains: slices.DeleteFunc(damage.AddChains, chain), ReplaceChains: slices.DeleteFunc(damage.ReplaceChains, chain),
		DeleteChains: slices.DeleteFunc(damage.DeleteChains, chain),
		AddSets:      slices.DeleteFunc(damage.AddSets, set), DeleteSets: slices.DeleteFunc(damage.DeleteSets, set),
		AddElements: slices.DeleteFunc(damage.AddElements, elements), DeleteElements: slices.DeleteFunc(damage.DeleteElements, elements),
		DeleteFlowtables: damage.DeleteFlowtables, AddFlowtables: damage.AddFlowtables,
		Rewrite: damage.Rewrite, ReplaceBridge: damage.ReplaceBridge,
	}
}
