// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package iptables

import (
	"cmp"
	"errors"
	"time"

	"github.com/smartnat/smartnat/pkg/budget"
	"github.com/smartnat/smartnat/pkg/dataplane"
	"github.com/smartnat/smartnat/pkg/gateway"
)

// drift tracks whether the tables of one family still hold what was last written.
type drift struct {
	state driftState
	// stamp belongs to tables that hold what was written. So does proof, a digest; without it, only a reading can verify them.
	stamp uint64
	proof *uint64
	// routine is the digest last taken since the last write. It detects later changes, but does not prove that the tables hold
	// what was written.
	routine *uint64
}

type driftState int

const (
	// unknown tables must be read: they never were, or a write failed.
	unknown driftState = iota
	// inSync tables hold what was written, unless another process changed them unseen.
	inSync
	// suspect tables were written by another process. They are read when the budget permits.
	suspect
	// mustVerify tables are compared with the proof, and read without one, whatever the budget.
	mustVerify
)

func (d *drift) suspectIf(changed bool) {
	if changed && d.state == inSync {
		d.state = suspect
	}
}

func (d *drift) demandProof() {
	if d.state != unknown {
		d.state = mustVerify
	}
}

// wasRead records a reading whose stamp and digest were taken before it.
func (d *drift) wasRead(stamp uint64, stampErr error, digest uint64, digestErr error) {
	d.state, d.stamp, d.proof = inSync, stamp, &digest
	if digestErr != nil {
		d.proof = nil
	}
	d.routine = d.proof
	d.suspectIf(stampErr != nil)
}

// newDigestBudget bounds routine digests, which exist because a stamp may miss a change: a quiet gateway uses less than a
// thousandth of a core in total.
func newDigestBudget() budget.Budget { return budget.New(2000, 0) }

// joinRound decides once for all families whether suspect tables may be read. A family that comes again begins a new round.
func (r *Ruleset) joinRound(name gateway.Family) {
	if r.round == nil || r.round[name] {
		r.newRound()
	}
	r.round[name] = true
}

func (r *Ruleset) newRound() {
	r.round, r.mayRead = map[gateway.Family]bool{}, r.readings.Allows(time.Now())
}

// Drift implements dataplane.Ruleset.
func (r *Ruleset) Drift() (bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.newRound()
	tablesErr := errors.Join(r.compareStamps(), r.compareDigests())
	changed := r.readingIsDue()
	setsChanged, setsErr := r.checkSets()
	return changed || setsChanged, errors.Join(tablesErr, setsErr)
}

// compareStamps suspects tables whose stamps changed.
func (r *Ruleset) compareStamps() error {
	var errs []error
	for name, f := range r.families {
		if f.state != inSync {
			continue
		}
		stamp, err := r.opts.Program.Stamp(name)
		f.suspectIf(err == nil && stamp != f.stamp)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// compareDigests detects changes that stamps miss, as often as the budget allows.
func (r *Ruleset) compareDigests() error {
	started := time.Now()
	if !r.digests.Allows(started) {
		return nil
	}
	var errs []error
	for name, f := range r.families {
		if f.state != inSync {
			continue
		}
		digest, err := r.opts.Program.Digest(name)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		f.suspectIf(f.routine != nil && *f.routine != digest)
		f.routine = &digest
	}
	// Waiting for a processor is no cost. Take the shorter of the last two rounds as the cost.
	now := time.Now()
	took := now.Sub(started)
	r.digests.Spend(now, min(took, cmp.Or(r.digested, took)))
	r.digested = took
	return errors.Join(errs...)
}

// stampWrite takes new stamps after a write of ours. If the kernel counts writes, the write changed the stamps of both
// families. If it was certainly the only write, the digest is known too; if another process wrote in between, the tables must
// be read again. If the kernel does not count writes, they must be read again after damage, because the process that caused it
// may still be writing.
func (r *Ruleset) stampWrite(written *family, tables int, damaged bool) {
	counted := r.opts.Program.IsOnlyWrite(0, 0, 0) // Without a count of writes, IsOnlyWrite is false even for zero writes.
	for name, f := range r.families {
		if f.state == unknown || f.state == suspect || !counted && f != written {
			continue
		}
		stamp, err := r.opts.Program.Stamp(name)
		only := r.opts.Program.IsOnlyWrite(f.stamp, stamp, tables)
		switch {
		case only && f.proof != nil && *f.proof == f.stamp:
			f.proof = &stamp
		case f == written:
			f.proof = nil
		}
		f.stamp, f.routine = stamp, nil
		f.suspectIf(err != nil || counted && !only || !counted && damaged)
	}
}

// readingIsDue reports whether the next Apply reads tables because another process wrote. If reading is not permitted yet,
// readingIsDue schedules a Drift for the time when it is.
func (r *Ruleset) readingIsDue() bool {
	found := false
	for _, f := range r.families {
		found = found || f.state == suspect
	}
	if found && !r.mayRead && r.changed != nil && r.later == nil {
		r.later = time.AfterFunc(time.Until(r.readings.Next()), r.changed)
	}
	if r.mayRead {
		r.later = nil
	}
	return found && r.mayRead
}

// mustRead reports whether only a reading tells what the tables hold.
func (r *Ruleset) mustRead(name gateway.Family, f *family, changes *dataplane.Changes) bool {
	switch f.state {
	case inSync:
		return false
	case suspect:
		return r.mayRead
	case mustVerify:
		return !r.isProven(name, f, changes)
	}
	return true
}

// isProven compares the tables with their proof.
func (r *Ruleset) isProven(name gateway.Family, f *family, changes *dataplane.Changes) bool {
	if f.proof == nil {
		return false
	}
	started := time.Now()
	digest, err := r.opts.Program.Digest(name)
	changes.Took.Observe += time.Since(started)
	if err != nil || digest != *f.proof {
		return false
	}
	f.state = inSync
	return true
}
