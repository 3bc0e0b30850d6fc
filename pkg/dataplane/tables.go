// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/netfilter"
	"github.com/smartnat/smartnat/pkg/rules"
)

// readingShare bounds what somebody who writes all the time can make us read: of this many seconds, one. After a quiet time
// as long as readingCredit there may be several at once: a firewall that is reloaded writes several times.
const (
	readingShare  = 20
	readingCredit = 10 * time.Second
)

// digestShare bounds what digests cost that are taken because a stamp may overlook something: a quiet gateway is to take less
// than a thousandth of a core in all.
const digestShare = 2000

// family is what is known of one family's tables.
type family struct {
	builder *rules.Builder
	// written is what they hold of ours.
	written netfilter.Ruleset
	// known is set while written is what was written last, as far as that is our own doing.
	known bool
	// stamp and digest are those of tables that hold written; digest is nil where only a reading could tell.
	stamp  uint64
	digest *uint64
	// seen is the digest at the last look since something was written. It tells of what came later, and does not prove what
	// is there.
	seen *uint64
	// suspect is set when somebody else wrote, verify when it is to be known for sure whether somebody did.
	suspect, verify bool
	// hung is what is said of a program that hung, and until is how long none is run because of that.
	hung  error
	until time.Time
}

func (d *Dataplane) family(name netfilter.Family) *family {
	f, found := d.families[name]
	if !found {
		f = &family{builder: rules.NewBuilder(name, d.ruleOptions(d.opts.Sets != nil))}
		d.families[name] = f
	}
	return f
}

func (d *Dataplane) ruleOptions(sets bool) rules.Options {
	return rules.Options{Ownership: d.opts.Ownership, RandomFully: d.opts.RandomFully, Sets: sets}
}

// build returns the rules that the state asks for, and has the sets there that they name.
func (d *Dataplane) build(state gateway.State, name netfilter.Family, result *Result) (netfilter.Ruleset, error) {
	if d.guardOnly(name) {
		return rules.Boundary(state, name, d.ruleOptions(false)), nil
	}
	started := time.Now()
	want := d.family(name).builder.Build(state)
	result.Took.Build += time.Since(started)
	err := d.putSets(name, want.Sets, result)
	if err != nil {
		// Rules cannot name sets that are not there, but can do without.
		want = rules.Build(state, name, d.ruleOptions(false))
	}
	return want, err
}

// filter brings one family's tables to want. On the hot path nothing is read but the stamp.
func (d *Dataplane) filter(ctx context.Context, want netfilter.Ruleset, result *Result) error {
	f := d.family(want.Family)
	return f.unlessHung(ctx, func() error { return d.filterFamily(ctx, f, want, result) })
}

func (d *Dataplane) filterFamily(ctx context.Context, f *family, want netfilter.Ruleset, result *Result) error {
	// A kernel that does not tell is asked again when all is verified.
	_ = d.lookAtTables()
	have := f.written
	var damage []Repair
	if !f.known || f.suspect && d.mayRead || f.verify && !d.verified(want.Family, f, result) {
		var err error
		if have, damage, err = d.readTables(ctx, want.Family, result); err != nil {
			return err
		}
	}
	started := time.Now()
	batch := netfilter.Diff(have, want, d.opts.Ownership.ChainPrefix)
	result.Took.Diff += time.Since(started)
	if !batch.Empty() {
		// Until it is done, nobody knows what the tables hold.
		f.known = false
		started := time.Now()
		err := d.opts.IPTables.Restore(ctx, batch)
		result.Took.Restore += time.Since(started)
		if err != nil {
			return fmt.Errorf("writing the IPv%d tables: %w", want.Family, err)
		}
		result.Batches = append(result.Batches, batch)
		result.Repaired = append(result.Repaired, damage...)
		f.written, f.known = want, true
		d.stampTables(f, len(batch.Tables), len(damage) > 0)
	}
	f.written, f.known = want, true
	return nil
}

// lookAtTables compares the stamps of the tables that we know.
func (d *Dataplane) lookAtTables() error {
	var errs []error
	for name, f := range d.families {
		if !f.known || f.suspect {
			continue
		}
		stamp, err := d.opts.IPTables.Stamp(name)
		f.suspect = err == nil && stamp != f.stamp
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// lookClosely compares digests, which tell of what stamps overlook, as often as their share of the time allows.
func (d *Dataplane) lookClosely() error {
	started := time.Now()
	if started.Before(d.undigested) {
		return nil
	}
	var errs []error
	for name, f := range d.families {
		if !f.known || f.suspect {
			continue
		}
		digest, err := d.opts.IPTables.Digest(name)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		f.suspect = f.seen != nil && *f.seen != digest
		f.seen = &digest
	}
	now := time.Now()
	// Who was kept from the processor has not used it: the shorter of two looks says what they cost.
	took := now.Sub(started)
	d.undigested = now.Add(min(took, cmp.Or(d.digested, took)) * digestShare)
	d.digested = took
	return errors.Join(errs...)
}

// stampTables takes new stamps after a write of ours, which may have changed those of both families. Where it is certain
// that nobody else wrote meanwhile, the digest is known too. Where somebody did, the tables are to be read once more; where
// nobody can tell, they are if there was damage, for who did that may not have been done with it.
func (d *Dataplane) stampTables(written *family, tables int, damaged bool) {
	counted := d.opts.IPTables.Alone(0, 0, 0) // Where no number of writes can be told, not even none can.
	for name, f := range d.families {
		if !f.known || f.suspect || !counted && f != written {
			continue
		}
		stamp, err := d.opts.IPTables.Stamp(name)
		alone := d.opts.IPTables.Alone(f.stamp, stamp, tables)
		switch {
		case alone && f.digest != nil && *f.digest == f.stamp:
			f.digest = &stamp
		case f == written:
			f.digest = nil
		}
		f.stamp, f.seen = stamp, nil
		f.suspect = err != nil || counted && !alone || !counted && damaged
	}
}

// allowReading finds out whether tables may be read because somebody else wrote. Who writes all the time has them read a
// share of the time alone.
func (d *Dataplane) allowReading() { d.mayRead = !time.Now().Before(d.unread) }

// readingIsDue reports whether the next Apply reads tables because somebody else wrote. Where it may not yet, another Check
// is asked for in time.
func (d *Dataplane) readingIsDue() bool {
	suspect := false
	for _, f := range d.families {
		suspect = suspect || f.known && f.suspect
	}
	if suspect && !d.mayRead && d.changed != nil && d.later == nil {
		d.later = time.AfterFunc(time.Until(d.unread), d.changed)
	}
	if d.mayRead {
		d.later = nil
	}
	return suspect && d.mayRead
}

// verified reports whether the tables are for sure as they were when they were read last.
func (d *Dataplane) verified(name netfilter.Family, f *family, result *Result) bool {
	if f.digest == nil {
		return false
	}
	started := time.Now()
	digest, err := d.opts.IPTables.Digest(name)
	result.Took.Observe += time.Since(started)
	f.verify = err != nil || digest != *f.digest
	return !f.verify
}

// readTables returns what a family's tables hold, and says what somebody else did to what was written there.
func (d *Dataplane) readTables(ctx context.Context, name netfilter.Family, result *Result) (netfilter.Ruleset, []Repair, error) {
	f := d.family(name)
	started := time.Now()
	// What is written while the tables are read is found by the next look.
	stamp, stampErr := d.opts.IPTables.Stamp(name)
	digest, digestErr := d.opts.IPTables.Digest(name)
	have, err := d.opts.IPTables.Save(ctx, name)
	took := time.Since(started)
	result.Took.Observe += took
	result.Readings++
	if err != nil {
		f.known = false
		return netfilter.Ruleset{}, nil, fmt.Errorf("reading the IPv%d tables: %w", name, err)
	}
	f.stamp, f.digest = stamp, &digest
	if digestErr != nil {
		f.digest = nil
	}
	if f.suspect {
		if earliest := time.Now().Add(-readingCredit); d.unread.Before(earliest) {
			d.unread = earliest
		}
		d.unread = d.unread.Add(took * readingShare)
	}
	f.suspect, f.verify, f.seen = stampErr != nil, false, f.digest
	if len(f.written.Tables) == 0 {
		return have, nil, nil
	}
	damage := netfilter.Diff(have, f.written, d.opts.Ownership.ChainPrefix)
	if !damage.Empty() {
		d.cut = nil // Connections may have been made that should not be.
	}
	return have, missingRules(damage), nil
}
