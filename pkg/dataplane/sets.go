// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/smartnat/smartnat/pkg/netfilter"
)

// wholeShare is how large a share of a set may change before it is written anew: one part in so many.
const wholeShare = 4

// sets are what is known of ours.
type sets struct {
	written map[string]netfilter.Set
	// known is set while written is what was written last; stamp is what it was then.
	known bool
	stamp uint64
	// verify is set when the members are to be read.
	verify bool
	// damage is what somebody else did to a set and is not repaired yet.
	damage map[string]Repair
}

// lookAtSets reports whether somebody else changed what we wrote.
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

// observeSets reads them where it is not known what they hold, and notes what somebody else did to them.
func (d *Dataplane) observeSets() error {
	if d.sets.known && !d.sets.verify {
		return nil
	}
	// What is written while the sets are read is found by the next look.
	stamp, err := d.opts.Sets.Stamp()
	if err != nil {
		return err
	}
	observed, err := d.opts.Sets.Observe()
	if err != nil {
		return err
	}
	have := make(map[string]netfilter.Set, len(observed))
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
			damage[name] = Repair{KindIPSet, fmt.Sprintf("set %s: %d members missing, %d that nobody asked for", name, len(gone), len(more))}
		default:
			continue
		}
		d.cut = nil // Connections may have been made that should not be.
	}
	d.sets = sets{written: have, known: true, stamp: stamp, damage: damage}
	return nil
}

func (d *Dataplane) stampSets() error {
	var err error
	d.sets.stamp, err = d.opts.Sets.Stamp()
	return err
}

// putSets has a family's sets there with their members, before the rules that name them. Those that are not wanted any more
// are left to destroySets.
func (d *Dataplane) putSets(family netfilter.Family, want []netfilter.Set, result *Result) error {
	if d.opts.Sets == nil || len(want) == 0 && d.sets.known && !d.sets.verify {
		return nil
	}
	// Rules that name a set that somebody destroyed would be refused.
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
		d.sets.known = false // until it is done
		if found && (len(add)+len(remove))*wholeShare <= len(set.Members) {
			err = d.opts.Sets.Change(set, add, remove)
		} else {
			err = d.opts.Sets.Put(set)
		}
		if err != nil {
			delete(d.sets.written, set.Name) // What could not be written will not have gone missing.
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

// destroySets removes those of ours that no rule names any more.
func (d *Dataplane) destroySets(wanted []netfilter.Set, result *Result) error {
	if d.opts.Sets == nil {
		return nil
	}
	if err := d.observeSets(); err != nil {
		return fmt.Errorf("reading the sets: %w", err)
	}
	var unwanted []string
	for name := range d.sets.written {
		if !slices.ContainsFunc(wanted, func(s netfilter.Set) bool { return s.Name == name }) {
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

// differ returns what has to be added to and removed from have to make it want. Both are sorted.
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
