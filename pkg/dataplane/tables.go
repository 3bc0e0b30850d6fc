// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/netfilter"
	"github.com/smartnat/smartnat/pkg/rules"
)

// readingShare bounds what somebody who writes all the time can make us read: of this many seconds, one.
const readingShare = 20

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
	// suspect is set when somebody else wrote, verify when it is to be known for sure whether somebody did.
	suspect, verify bool
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
	// A kernel that does not tell is asked again when all is verified.
	_ = d.lookAtTables()
	have := f.written
	if !f.known || f.suspect && d.mayRead || f.verify && !d.verified(want.Family, f, result) {
		var err error
		if have, err = d.readTables(ctx, want.Family, result); err != nil {
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
		f.written, f.known = want, true
		d.stampTables(f, len(batch.Tables))
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

// stampTables takes new stamps after a write of ours, which may have changed those of both families. Unless it is certain that
// nobody else wrote meanwhile, the tables have to be read once more before their digest says anything.
func (d *Dataplane) stampTables(written *family, tables int) {
	for name, f := range d.families {
		if !f.known || f.suspect {
			continue
		}
		stamp, err := d.opts.IPTables.Stamp(name)
		f.suspect = err != nil
		alone := d.opts.IPTables.Alone(f.stamp, stamp, tables)
		switch {
		case alone && f.digest != nil && *f.digest == f.stamp:
			f.digest = &stamp
		case f == written:
			f.digest = nil
		}
		f.stamp = stamp
	}
}

// allowReading finds out whether tables may be read because somebody else wrote. Who writes all the time has them read a
// share of the time alone.
func (d *Dataplane) allowReading() { d.mayRead = !time.Now().Before(d.unread) }

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
func (d *Dataplane) readTables(ctx context.Context, name netfilter.Family, result *Result) (netfilter.Ruleset, error) {
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
		return netfilter.Ruleset{}, fmt.Errorf("reading the IPv%d tables: %w", name, err)
	}
	f.stamp, f.digest = stamp, &digest
	if digestErr != nil {
		f.digest = nil
	}
	if f.suspect {
		if now := time.Now(); d.unread.Before(now) {
			d.unread = now
		}
		d.unread = d.unread.Add(took * readingShare)
	}
	f.suspect, f.verify = stampErr != nil, false
	if len(f.written.Tables) > 0 {
		damage := netfilter.Diff(have, f.written, d.opts.Ownership.ChainPrefix)
		if !damage.Empty() {
			d.cut = nil // Connections may have been made that should not be.
		}
		result.Missing = append(result.Missing, missingRules(damage)...)
	}
	return have, nil
}
