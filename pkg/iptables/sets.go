// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package iptables

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/smartnat/smartnat/pkg/dataplane"
	"github.com/smartnat/smartnat/pkg/delta"
	"github.com/smartnat/smartnat/pkg/iptables/ruleset"
)

// wholeShare limits incremental changes: if more than one member in wholeShare changes, the whole set is written again.
const wholeShare = 4

// sets is what is known about our sets.
type sets struct {
	written map[string]ruleset.Set
	// known means that the kernel held written when last seen.
	known bool
	// verify requests a reading of the members.
	verify bool
	// damage holds changes by another process that are not repaired yet.
	damage map[string]dataplane.Repair
}

// checkSets reports whether another process changed our sets. It expects the sizes of what was written: sizes read after a write
// would include what another process did during it.
func (r *Ruleset) checkSets() (bool, error) {
	if r.opts.Sets == nil || !r.sets.known {
		return false, nil
	}
	sizes, err := r.opts.Sets.Sizes()
	if err == nil {
		r.sets.known = maps.EqualFunc(sizes, r.sets.written, func(size int, set ruleset.Set) bool { return size == len(set.Members) })
	}
	return !r.sets.known, err
}

// observeSets reads the sets unless their content is known, and records damage by other processes.
func (r *Ruleset) observeSets(changes *dataplane.Changes) error {
	if r.sets.known && !r.sets.verify {
		return nil
	}
	observed, err := r.opts.Sets.Observe()
	if err != nil {
		return err
	}
	have := make(map[string]ruleset.Set, len(observed))
	for _, set := range observed {
		have[set.Name] = set
	}
	damage := maps.Clone(r.sets.damage)
	for name, written := range r.sets.written {
		set, found := have[name]
		missing, unexpected := differ(set.Members, written.Members)
		switch {
		case !found:
			damage[name] = dataplane.Repair{Kind: dataplane.KindIPSet, Missing: "set " + name}
		case len(missing)+len(unexpected) > 0:
			damage[name] = dataplane.Repair{Kind: dataplane.KindIPSet, Missing: fmt.Sprintf("set %s: %d members missing, %d unexpected", name, len(missing), len(unexpected))}
		default:
			continue
		}
		changes.Damaged = true // The damaged set may have let in connections that must end.
	}
	r.sets = sets{written: have, known: true, damage: damage}
	return nil
}

// putSets writes the sets of a family before the rules that name them. It leaves unwanted sets to settleSets.
func (r *Ruleset) putSets(want []ruleset.Set, changes *dataplane.Changes) error {
	if r.opts.Sets == nil || len(want) == 0 && r.sets.known && !r.sets.verify {
		return nil
	}
	// The kernel refuses rules that name a set which another process destroyed.
	_, err := r.checkSets()
	if err = errors.Join(err, r.observeSets(changes)); err != nil {
		return fmt.Errorf("reading the sets: %w", err)
	}
	for _, set := range want {
		have, found := r.sets.written[set.Name]
		add, remove := differ(have.Members, set.Members)
		if found && len(add)+len(remove) == 0 {
			delete(r.sets.damage, set.Name)
			continue
		}
		if err := r.putSet(set, add, remove, changes); err != nil {
			return err
		}
	}
	return nil
}

// putSet writes a set of which these members have to be added and removed.
func (r *Ruleset) putSet(set ruleset.Set, add, remove []netip.Prefix, changes *dataplane.Changes) error {
	_, found := r.sets.written[set.Name]
	r.sets.known = false // until the write succeeds
	var err error
	if found && (len(add)+len(remove))*wholeShare <= len(set.Members) {
		err = r.opts.Sets.Change(set, add, remove)
	} else {
		err = r.opts.Sets.Put(set)
	}
	if err != nil {
		delete(r.sets.written, set.Name) // A set that was never written cannot go missing.
		return fmt.Errorf("writing the IPv%d set %s: %w", set.Family, set.Name, err)
	}
	r.sets.written[set.Name], r.sets.known = set, true
	if repair, damaged := r.sets.damage[set.Name]; damaged {
		changes.Repaired = append(changes.Repaired, repair)
		delete(r.sets.damage, set.Name)
	}
	changes.Sets++
	changes.Members += len(add) + len(remove)
	return nil
}

// settleSets repairs sets that were damaged after the turn of their family, and removes our sets that the rules of no family name any more.
func (r *Ruleset) settleSets(changes *dataplane.Changes) error {
	if r.opts.Sets == nil {
		return nil
	}
	if err := r.observeSets(changes); err != nil {
		return fmt.Errorf("reading the sets: %w", err)
	}
	var wanted []ruleset.Set
	for _, f := range r.families {
		wanted = append(wanted, f.sets...)
	}
	for _, set := range wanted {
		if _, damaged := r.sets.damage[set.Name]; !damaged {
			continue
		}
		add, remove := differ(r.sets.written[set.Name].Members, set.Members)
		if err := r.putSet(set, add, remove, changes); err != nil {
			return err
		}
	}
	var unwanted []string
	for name := range r.sets.written {
		if !slices.ContainsFunc(wanted, func(s ruleset.Set) bool { return s.Name == name }) {
			unwanted = append(unwanted, name)
		}
	}
	if len(unwanted) == 0 {
		return nil
	}
	slices.Sort(unwanted)
	var errs []error
	for _, name := range unwanted {
		if err := r.opts.Sets.Destroy(name); err != nil {
			errs = append(errs, fmt.Errorf("removing the set %s: %w", name, err))
			continue
		}
		delete(r.sets.written, name)
		changes.Sets++
	}
	return errors.Join(errs...)
}

// differ returns the prefixes to add to have, and to remove from it, to get want. Both are sorted.
func differ(have, want []netip.Prefix) (add, remove []netip.Prefix) {
	for before, now := range delta.Join(have, want, netip.Prefix.Compare) {
		switch {
		case before == nil:
			add = append(add, *now)
		case now == nil:
			remove = append(remove, *before)
		}
	}
	return add, remove
}
