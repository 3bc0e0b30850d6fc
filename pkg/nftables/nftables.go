// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package nftables

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/smartnat/smartnat/pkg/budget"
	"github.com/smartnat/smartnat/pkg/dataplane"
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/nftables/rules"
	"github.com/smartnat/smartnat/pkg/nftables/ruleset"
	"github.com/smartnat/smartnat/pkg/packet"
)

// Kernel reads and writes the table of each family.
type Kernel interface {
	// Inspect looks for the table without reading its content. An owned table cannot be changed by any other process.
	Inspect(family gateway.Family) (exists, owned bool, err error)
	// Read returns the content of the table, which is empty if there is none. It fails if the table is not ours.
	Read(family gateway.Family) (ruleset.Table, error)
	// Write creates the table if necessary and changes its content in one transaction. The error is gateway.ErrRefused if the
	// kernel refuses something in the batch.
	Write(ctx context.Context, family gateway.Family, batch ruleset.Batch) error
	// Adopt makes this process the owner of a table that an earlier one wrote, if the kernel has owners.
	Adopt(family gateway.Family) error
	// Remove removes the table, if there is one of ours.
	Remove(family gateway.Family) (removed bool, err error)
	// Try returns gateway.ErrRefused if the kernel refuses something in the table. It does not affect packets.
	Try(table ruleset.Table) error
	// Counts returns the elements of a set with counters, or none if there is no such set. whole is not set if some may be
	// missing.
	Counts(family gateway.Family, set string) (counts []ruleset.Count, whole bool, err error)
	// Generation returns a number that changes whenever any process changes nf_tables.
	Generation() (uint32, error)
	// Watch calls changed once at the start and then whenever any process changes nf_tables. It returns nil when ctx ends.
	Watch(ctx context.Context, changed func()) error
}

// Options configures a Ruleset.
type Options struct {
	Ownership gateway.Ownership
	Kernel    Kernel
	// Families are the families to program, IPv4 first.
	Families []gateway.Family
	// GuardOnly lists the families that are not served: their only rules are the boundary.
	GuardOnly []gateway.Family
	// FlowtableRefused, if set, is called once for each Flowtable that the kernel refuses. All else is in effect without it.
	FlowtableRefused func(gateway.Family, error)
}

// Ruleset implements dataplane.Ruleset. It is safe for concurrent use.
type Ruleset struct {
	opts Options

	mu sync.Mutex
	// families is what this Ruleset last wrote.
	families map[gateway.Family]*family
	// readings bounds the time that other processes can make this one spend on reading tables.
	readings budget.Budget
	// changed requests a Drift. Watch sets it. later is the timer that calls it when tables may be read again.
	changed func()
	later   *time.Timer
}

var _ dataplane.Ruleset = (*Ruleset)(nil)

// New returns a Ruleset that knows nothing about the kernel yet.
func New(opts Options) *Ruleset {
	return &Ruleset{opts: opts, families: map[gateway.Family]*family{}, readings: budget.ForReadings()}
}

// family is what is known about one family. guard is the table of a family that is not served.
type family struct {
	drift
	builder *rules.Builder
	guard   ruleset.Table
	// refused is the flowtable that the kernel refused last, such as one with a link that was just removed.
	refused gateway.Flowtable
	// halfway are the steps of the last write that succeeded before one failed.
	halfway []ruleset.Batch
}

// written returns the table as last written, which is empty at first.
func (f *family) written() ruleset.Table {
	if len(f.guard.Chains) > 0 {
		return f.guard
	}
	return f.builder.Built()
}

func (r *Ruleset) family(name gateway.Family) *family {
	f, found := r.families[name]
	if !found {
		f = &family{builder: rules.NewBuilder(name, r.opts.Ownership)}
		r.families[name] = f
	}
	return f
}

// Families implements dataplane.Ruleset.
func (r *Ruleset) Families() []gateway.Family { return r.opts.Families }

// Apply implements dataplane.Ruleset. Without changes it asks only whether the table is as it was.
func (r *Ruleset) Apply(ctx context.Context, name gateway.Family, state gateway.State) (dataplane.Changes, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var changes dataplane.Changes
	f := r.family(name)
	// An error here is no problem: the table is then read.
	_ = r.compare(name, f)
	if state.Flowtable.Equal(f.refused) {
		state.Flowtable = gateway.Flowtable{}
	}
	err := r.sync(ctx, name, f, state, &changes)
	if errors.Is(err, gateway.ErrRefused) && len(state.Flowtable.Links) > 0 {
		// A flowtable saves time. Without it, all else is in effect.
		refused, why := state.Flowtable, err
		state.Flowtable = gateway.Flowtable{}
		if err = r.sync(ctx, name, f, state, &changes); err == nil {
			f.refused = refused
			if r.opts.FlowtableRefused != nil {
				r.opts.FlowtableRefused(name, why)
			}
		}
	}
	changes.InPlace = err == nil
	return changes, err
}

// sync brings the table of a family to the state.
func (r *Ruleset) sync(ctx context.Context, name gateway.Family, f *family, state gateway.State, changes *dataplane.Changes) error {
	if r.mustRead(f) {
		return r.reconcile(ctx, name, f, state, changes)
	}
	return r.change(ctx, name, f, state, changes)
}

func (r *Ruleset) guardOnly(name gateway.Family) bool { return slices.Contains(r.opts.GuardOnly, name) }

// change writes what differs from the last write.
func (r *Ruleset) change(ctx context.Context, name gateway.Family, f *family, state gateway.State, changes *dataplane.Changes) error {
	started := time.Now()
	batch, done := r.next(name, f, state)
	changes.Took.Build += time.Since(started)
	err := r.write(ctx, name, f, batch, changes)
	switch {
	case errors.Is(err, gateway.ErrRefused):
		// The kernel also refuses a difference to a table that another process changed meanwhile.
		return r.reconcile(ctx, name, f, state, changes)
	case err == nil:
		done()
	}
	return err
}

// next returns the changes from the table as last written to the one that the state requires. The caller calls done after it
// wrote them.
func (r *Ruleset) next(name gateway.Family, f *family, state gateway.State) (batch ruleset.Batch, done func()) {
	if !r.guardOnly(name) {
		return f.builder.Change(state)
	}
	guard := rules.Guard(state, name, r.opts.Ownership)
	return ruleset.Diff(f.guard, guard), func() { f.guard = guard }
}

// start returns the whole table that the state requires.
func (r *Ruleset) start(name gateway.Family, f *family, state gateway.State) ruleset.Table {
	if !r.guardOnly(name) {
		return f.builder.Start(state)
	}
	f.guard = rules.Guard(state, name, r.opts.Ownership)
	return f.guard
}

// reconcile reads the table and writes what differs from it.
func (r *Ruleset) reconcile(ctx context.Context, name gateway.Family, f *family, state gateway.State, changes *dataplane.Changes) error {
	have, damage, err := r.read(name, f, changes)
	if err != nil {
		return err
	}
	started := time.Now()
	next := &family{builder: rules.NewBuilder(name, r.opts.Ownership)}
	want := r.start(name, next, state)
	changes.Took.Build += time.Since(started)
	started = time.Now()
	batch := ruleset.Diff(have, want)
	changes.Took.Diff += time.Since(started)
	if batch.Empty() && len(have.Chains) > 0 {
		err = r.adopt(name)
	} else {
		err = r.write(ctx, name, f, batch, changes)
	}
	if err != nil {
		return err
	}
	changes.Repaired = append(changes.Repaired, damage...)
	f.builder, f.guard, f.halfway = next.builder, next.guard, nil
	return nil
}

// read returns the table and the damage that another process did to it.
func (r *Ruleset) read(name gateway.Family, f *family, changes *dataplane.Changes) (ruleset.Table, []dataplane.Repair, error) {
	started := time.Now()
	// Take the generation first: the next look then detects writes that happen during the reading.
	generation, genErr := r.opts.Kernel.Generation()
	have, err := r.opts.Kernel.Read(name)
	took := time.Since(started)
	changes.Took.Observe += took
	if err := errors.Join(genErr, err); err != nil {
		f.state = unknown
		return ruleset.Table{}, nil, fmt.Errorf("reading the IPv%d rules: %w", name, err)
	}
	if f.state == suspect {
		r.readings.Spend(time.Now(), took)
	}
	wrote := f.written()
	f.state, f.generation = inSync, generation
	if len(wrote.Chains) == 0 {
		return have, nil, nil
	}
	damage := f.others(ruleset.Diff(have, wrote))
	changes.Damaged = changes.Damaged || !damage.Empty()
	return have, repairs(name, damage), nil
}

// write executes a batch.
func (r *Ruleset) write(ctx context.Context, name gateway.Family, f *family, batch ruleset.Batch, changes *dataplane.Changes) error {
	if batch.Empty() {
		return nil
	}
	before := f.state
	started := time.Now()
	defer func() { changes.Took.Restore += time.Since(started) }()
	steps := rules.Steps(batch)
	for i, step := range steps {
		f.state = unknown // until the write succeeds
		if err := r.opts.Kernel.Write(ctx, name, step); err != nil {
			f.halfway = append(f.halfway, steps[:i]...)
			return fmt.Errorf("writing the IPv%d rules: %w", name, err)
		}
		f.state = before
		count(changes, step)
		r.stampWrite()
	}
	return nil
}

// adopt protects a table that needs no write.
func (r *Ruleset) adopt(name gateway.Family) error {
	if err := r.opts.Kernel.Adopt(name); err != nil {
		return fmt.Errorf("becoming the owner of the IPv%d rules: %w", name, err)
	}
	return nil
}

func count(changes *dataplane.Changes, batch ruleset.Batch) {
	changes.Writes++
	changes.Chains += batch.Chains()
	changes.Sets += batch.Sets()
	changes.Members += batch.Members()
}

// Guard implements dataplane.Ruleset. It writes nothing if an earlier process left the boundary with our other rules. Otherwise
// the boundary is in chains of its own.
func (r *Ruleset) Guard(ctx context.Context, name gateway.Family, state gateway.State) (dataplane.Changes, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var changes dataplane.Changes
	f := r.family(name)
	have, err := r.opts.Kernel.Read(name)
	if err != nil {
		return changes, fmt.Errorf("reading the IPv%d rules: %w", name, err)
	}
	if !r.guardOnly(name) && rules.Guarded(have, state, name, r.opts.Ownership) {
		return changes, r.adopt(name)
	}
	want := rules.Guard(state, name, r.opts.Ownership)
	guardOnly := ruleset.Table{Family: name, Bridge: have.Bridge}
	if len(want.Bridge) == 0 {
		guardOnly.Bridge = nil // it may serve the other rules
	}
	for _, c := range have.Chains {
		if rules.IsGuard(c.Name) {
			guardOnly.Chains = append(guardOnly.Chains, c)
		}
	}
	for _, s := range have.Sets {
		if rules.IsGuard(s.Name) {
			guardOnly.Sets = append(guardOnly.Sets, s)
		}
	}
	batch := ruleset.Diff(guardOnly, want)
	if err := r.write(ctx, name, f, batch, &changes); err != nil {
		return changes, err
	}
	f.state = unknown // the next Apply removes the guard
	return changes, nil
}

// Prune implements dataplane.Ruleset. Apply has removed everything in its transaction already.
func (r *Ruleset) Prune(context.Context) (dataplane.Changes, error) { return dataplane.Changes{}, nil }

// Plan implements dataplane.Ruleset.
func (r *Ruleset) Plan(_ context.Context, name gateway.Family, state gateway.State) (dataplane.Plan, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var plan dataplane.Plan
	have, err := r.opts.Kernel.Read(name)
	if err != nil {
		return plan, fmt.Errorf("reading the IPv%d rules: %w", name, err)
	}
	if f := r.families[name]; f != nil && state.Flowtable.Equal(f.refused) {
		state.Flowtable = gateway.Flowtable{} // as Apply does
	}
	want := rules.Build(state, name, r.opts.Ownership)
	if r.guardOnly(name) {
		want = rules.Guard(state, name, r.opts.Ownership)
	}
	if batch := ruleset.Diff(have, want); !batch.Empty() {
		for _, step := range rules.Steps(batch) {
			count(&plan.Changes, step)
		}
		plan.Add(dataplane.KindNFTables, name, ruleset.Differences(have, want))
	}
	return plan, nil
}

// Remove implements dataplane.Ruleset.
func (r *Ruleset) Remove(_ context.Context, name gateway.Family) (dataplane.Changes, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.families, name)
	changes := dataplane.Changes{}
	removed, err := r.opts.Kernel.Remove(name)
	if removed {
		changes.Writes, changes.Chains = 1, 1
	}
	if err != nil {
		return changes, fmt.Errorf("removing the IPv%d rules: %w", name, err)
	}
	changes.InPlace = true
	return changes, nil
}

// Try implements dataplane.Ruleset. It skips a family without forwards and egresses, unless both families have none.
func (r *Ruleset) Try(_ context.Context, state gateway.State) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var errs []error
	if len(state.Forwards)+len(state.Egresses) > 0 {
		state.Flowtable = gateway.Flowtable{} // Apply does without it
	}
	for _, name := range r.opts.Families {
		if !state.Serves(name) && (state.Serves(gateway.IPv4) || state.Serves(gateway.IPv6)) {
			continue
		}
		if err := r.opts.Kernel.Try(rules.Build(state, name, r.opts.Ownership)); err != nil {
			errs = append(errs, fmt.Errorf("trying the IPv%d rules: %w", name, err))
			continue
		}
		r.stampWrite()
	}
	return errors.Join(errs...)
}

// Tracer implements dataplane.Ruleset.
func (r *Ruleset) Tracer(_ context.Context, name gateway.Family) (packet.Tracer, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	have, err := r.opts.Kernel.Read(name)
	if err != nil {
		return nil, fmt.Errorf("reading the IPv%d rules: %w", name, err)
	}
	return ruleset.NewTracer(have, r.opts.Ownership.TableName(), rules.BridgedMark(r.opts.Ownership)), nil
}

// Verify implements dataplane.Ruleset.
func (r *Ruleset) Verify() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, f := range r.families {
		f.demandProof()
		f.refused = gateway.Flowtable{}
	}
}

// Watch implements dataplane.Ruleset.
func (r *Ruleset) Watch(ctx context.Context, changed func()) error {
	r.mu.Lock()
	r.changed = changed
	r.mu.Unlock()
	return r.opts.Kernel.Watch(ctx, changed)
}
