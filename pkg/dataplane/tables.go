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
	"github.com/smartnat/smartnat/pkg/iptables/rules"
	"github.com/smartnat/smartnat/pkg/iptables/ruleset"
)

// readingShare bounds the reading that a process can cause by writing all the time: one second in readingShare. After a quiet
// period of readingCredit, several readings may follow each other, because a firewall writes several times when it reloads.
const (
	readingShare  = 20
	readingCredit = 10 * time.Second
)

// digestShare bounds the cost of routine digests, which exist because a stamp may miss a change: one second in digestShare, so
// that a quiet gateway uses less than a thousandth of a core in total.
const digestShare = 2000

// family is what is known about the tables of one family.
type family struct {
	builder *rules.Builder
	// written holds our rules as last written.
	written ruleset.Ruleset
	// known means that the tables hold written, unless another process changed them.
	known bool
	// stamp and digest identify tables that hold written. A nil digest means that only a reading can verify them.
	stamp  uint64
	digest *uint64
	// seen is the routine digest last taken since the last write. It detects later changes, but does not prove that the tables
	// hold written.
	seen *uint64
	// suspect means that another process wrote. verify requests proof that none did.
	suspect, verify bool
	// hung is the error of a program that hung. No program runs before until.
	hung  error
	until time.Time
}

func (d *Dataplane) family(name gateway.Family) *family {
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

// build returns the rules that the state requires, after writing the sets that they name.
func (d *Dataplane) build(state gateway.State, name gateway.Family, result *Result) (ruleset.Ruleset, error) {
	if d.guardOnly(name) {
		return rules.Boundary(state, name, d.ruleOptions(false)), nil
	}
	started := time.Now()
	want := d.family(name).builder.Build(state)
	result.Took.Build += time.Since(started)
	err := d.putSets(name, want.Sets, result)
	if err != nil {
		// Rules cannot name missing sets, so build them without sets.
		want = rules.Build(state, name, d.ruleOptions(false))
	}
	return want, err
}

// filter brings the tables of one family to want. The hot path reads only the stamp.
func (d *Dataplane) filter(ctx context.Context, want ruleset.Ruleset, result *Result) error {
	f := d.family(want.Family)
	return f.unlessHung(ctx, func() error { return d.filterFamily(ctx, f, want, result) })
}

func (d *Dataplane) filterFamily(ctx context.Context, f *family, want ruleset.Ruleset, result *Result) error {
	// An error here is no problem: a verification asks the kernel again.
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
	batch := ruleset.Diff(have, want, d.opts.Ownership.ChainPrefix)
	result.Took.Diff += time.Since(started)
	if !batch.Empty() {
		// Until the write succeeds, the content of the tables is unknown.
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

// lookAtTables compares the stamps of all known tables.
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

// lookClosely compares digests, which detect changes that stamps miss, as often as digestShare allows.
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
	// Waiting for a processor is no cost. Take the shorter of the last two rounds as the cost.
	took := now.Sub(started)
	d.undigested = now.Add(min(took, cmp.Or(d.digested, took)) * digestShare)
	d.digested = took
	return errors.Join(errs...)
}

// stampTables takes new stamps after a write of ours. If the kernel counts writes, the write changed the stamps of both
// families. If it was certainly the only write, the digest is known too; if another process wrote in between, the tables must
// be read again. If the kernel does not count writes, they must be read again after damage, because the process that caused it
// may still be writing.
func (d *Dataplane) stampTables(written *family, tables int, damaged bool) {
	counted := d.opts.IPTables.Alone(0, 0, 0) // Without a count of writes, Alone is false even for zero writes.
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

// allowReading sets mayRead. The limit is for processes that write all the time.
func (d *Dataplane) allowReading() { d.mayRead = !time.Now().Before(d.unread) }

// readingIsDue reports whether the next Apply reads tables because another process wrote. If reading is not permitted yet,
// readingIsDue schedules a Check for the time when it is.
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

// verified reports whether the tables have certainly not changed since the last reading.
func (d *Dataplane) verified(name gateway.Family, f *family, result *Result) bool {
	if f.digest == nil {
		return false
	}
	started := time.Now()
	digest, err := d.opts.IPTables.Digest(name)
	result.Took.Observe += time.Since(started)
	f.verify = err != nil || digest != *f.digest
	return !f.verify
}

// readTables returns the tables of a family and the damage that another process did to our rules.
func (d *Dataplane) readTables(ctx context.Context, name gateway.Family, result *Result) (ruleset.Ruleset, []Repair, error) {
	f := d.family(name)
	started := time.Now()
	// Take stamp and digest first: the next look then detects writes that happen during the reading.
	stamp, stampErr := d.opts.IPTables.Stamp(name)
	digest, digestErr := d.opts.IPTables.Digest(name)
	have, err := d.opts.IPTables.Save(ctx, name)
	took := time.Since(started)
	result.Took.Observe += took
	result.Readings++
	if err != nil {
		f.known = false
		return ruleset.Ruleset{}, nil, fmt.Errorf("reading the IPv%d tables: %w", name, err)
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
	damage := ruleset.Diff(have, f.written, d.opts.Ownership.ChainPrefix)
	if !damage.Empty() {
		d.cut = nil // The damaged rules may have let in connections that must end.
	}
	return have, missingRules(damage), nil
}
