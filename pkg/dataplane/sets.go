// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/iptables/ruleset"
)

// wholeShare limits incremental changes: if more than one member in wholeShare changes, the whole set is written again.
const wholeShare = 4

// sets is what is known about our sets.
type sets struct {
	written map[string]ruleset.Set
	// known means that the kernel holds written. stamp is the stamp of that content.
	known bool
	stamp uint64
	// verify requests a reading of the members.
	verify bool
	// damage holds changes by another process that are not repaired yet.
	damage map[string]Repair
}

// lookAtSets reports whether another process changed our sets.
func (d *Dataplane) lookAtSets() (bool, error) {
	if d.opts.Sets == nil || !d.sets.known {
		return false, nil
	}
	stamp, err := d.opts.Sets.Stamp()
	if err == nil {
		d.sets.known = stamp == d.sets.stamp
	}
	return !d.sets.known, err
}

// observeSets reads the sets unless their content is known, and records damage by other processes.
func (d *Dataplane) observeSets() error {
	if d.sets.known && !d.sets.verify {
		return nil
	}
	// Take the stamp first: the next look then detects writes that happen during the reading.
	stamp, err := d.opts.Sets.Stamp()
	if err != nil {
		return err
	}
	observed, err := d.opts.Sets.Observe()
	if err != nil {
		return err
	}
	have := make(map[string]ruleset.Set, len(observed))
	for _, set := range observed {
		have[set.Name] = set
	}
	damage := maps.Clone(d.sets.damage)
	for name, written := range d.sets.written {
		set, found := have[name]
		gone, more := differ(set.Members, written.Members)
		switch {
		case !found:
			damage[name] = Repair{KindIPSet, "set " + name}
		case len(gone)+len(more) > 0:
			damage[name] = Repair{KindIPSet, fmt.Sprintf("set %s: %d members missing, %d unexpected", name, len(gone), len(more))}
		default:
			continue
		}
		d.cut = nil // The damaged set may have let in connections that must end.
	}
	d.sets = sets{written: have, known: true, stamp: stamp, damage: damage}
	return nil
}

func (d *Dataplane) stampSets() error {
	var err error
	d.sets.stamp, err = d.opts.Sets.Stamp()
	return err
}

// putSets writes the sets of a family before the rules that name them. It leaves unwanted sets to destroySets.
func (d *Dataplane) putSets(family gateway.Family, want []ruleset.Set, result *Result) error {
	if d.opts.Sets == nil || len(want) == 0 && d.sets.known && !d.sets.verify {
		return nil
	}
	// The kernel refuses rules that name a set which another process destroyed.
	_, err := d.lookAtSets()
	if err = errors.Join(err, d.observeSets()); err != nil {
		return fmt.Errorf("reading the sets: %w", err)
	}
	changed := false
	for _, set := range want {
		have, found := d.sets.written[set.Name]
		add, remove := differ(have.Members, set.Members)
		if found && len(add)+len(remove) == 0 {
			delete(d.sets.damage, set.Name)
			continue
		}
		changed = true
		d.sets.known = false // until the write succeeds
		if found && (len(add)+len(remove))*wholeShare <= len(set.Members) {
			err = d.opts.Sets.Change(set, add, remove)
		} else {
			err = d.opts.Sets.Put(set)
		}
		if err != nil {
			delete(d.sets.written, set.Name) // A set that was never written cannot go missing.
			return fmt.Errorf("writing the IPv%d set %s: %w", family, set.Name, err)
		}
		d.sets.written[set.Name] = set
		if repair, damaged := d.sets.damage[set.Name]; damaged {
			result.Repaired = append(result.Repaired, repair)
			delete(d.sets.damage, set.Name)
		}
		result.Sets++
		result.Members += len(add) + len(remove)
	}
	if !changed {
		return nil
	}
	d.sets.known = true
	return d.stampSets()
}

// destroySets removes our sets that no rule names any more.
func (d *Dataplane) destroySets(wanted []ruleset.Set, result *Result) error {
	if d.opts.Sets == nil {
		return nil
	}
	if err := d.observeSets(); err != nil {
		return fmt.Errorf("reading the sets: %w", err)
	}
	var unwanted []string
	for name := range d.sets.written {
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
		if err := d.opts.Sets.Destroy(name); err != nil {
			errs = append(errs, fmt.Errorf("removing the set %s: %w", name, err))
			continue
		}
		delete(d.sets.written, name)
		result.Sets++
	}
	return errors.Join(append(errs, d.stampSets())...)
}

// differ returns the prefixes to add to have, and to remove from it, to get want. Both are sorted.
func differ(have, want []netip.Prefix) (add, remove []netip.Prefix) {
	for len(have) > 0 || len(want) > 0 {
		order := -1
		switch {
		case len(have) == 0:
			order = 1
		case len(want) > 0:
			order = have[0].Compare(want[0])
		}
		switch {
		case order < 0:
			remove, have = append(remove, have[0]), have[1:]
		case order > 0:
			add, want = append(add, want[0]), want[1:]
		default:
			have, want = have[1:], want[1:]
		}
	}
	return add, remove
}
