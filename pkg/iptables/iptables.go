// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package iptables

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/smartnat/smartnat/pkg/budget"
	"github.com/smartnat/smartnat/pkg/dataplane"
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/iptables/rules"
	"github.com/smartnat/smartnat/pkg/iptables/ruleset"
	"github.com/smartnat/smartnat/pkg/packet"
)

// Program reads and writes the netfilter tables. If the program of a Save or Restore hangs and is killed, the error matches
// context.DeadlineExceeded.
type Program interface {
	// Families returns the families that can be programmed, IPv4 first.
	Families() []gateway.Family
	Save(ctx context.Context, family gateway.Family) (ruleset.Ruleset, error)
	// Restore executes the batch. After an error, some of its tables may be written. The error is gateway.ErrRefused if the
	// kernel or the program refuses a line of the batch.
	Restore(ctx context.Context, batch ruleset.Batch) error
	// Watch calls changed once at the start and then whenever rules may have been written, by any process including this one. It
	// returns nil when ctx ends, and an error if it can no longer watch.
	Watch(ctx context.Context, changed func()) error
	// Stamp is cheap and returns another number after rules of the family were written. It may miss a change. Digest costs more
	// and misses none.
	Stamp(family gateway.Family) (uint64, error)
	Digest(family gateway.Family) (uint64, error)
	// IsOnlyWrite reports whether a Restore of this number of tables was certainly the only write between two Stamps. If
	// IsOnlyWrite can be true, a Stamp is also a Digest.
	IsOnlyWrite(before, after uint64, tables int) bool
}

// Sets reads and writes sets of networks.
type Sets interface {
	// Observe returns our sets with their members, sorted by name.
	Observe() ([]ruleset.Set, error)
	// Sizes returns the number of members of each of our sets, by name. It costs less than Observe.
	Sizes() (map[string]int, error)
	// Put creates the set, or replaces its members atomically.
	Put(set ruleset.Set) error
	// Change adds members and removes others.
	Change(set ruleset.Set, add, remove []netip.Prefix) error
	// Destroy removes a set that no rule names any more.
	Destroy(name string) error
}

// Options configures a Ruleset.
type Options struct {
	Ownership gateway.Ownership
	Program   Program
	// Sets is nil if the host does not support sets.
	Sets Sets
	// RandomFully means that the kernel and iptables support MASQUERADE's --random-fully.
	RandomFully bool
	// GuardOnly lists the families that are not served: their only rules are the boundary.
	GuardOnly []gateway.Family
}

// Ruleset implements dataplane.Ruleset. It is safe for concurrent use.
type Ruleset struct {
	opts Options

	mu sync.Mutex
	// families and sets are what this Ruleset last wrote.
	families map[gateway.Family]*family
	sets     sets
	// round is the set of families that used the current permission to read tables, mayRead.
	round   map[gateway.Family]bool
	mayRead bool
	// readings and digests bound the two costs of looking for writes by other processes.
	readings, digests budget.Budget
	// digested is how long the last round of routine digests took.
	digested time.Duration
	// changed requests a Drift. Watch sets it. later is the timer that calls it when tables may be read again.
	changed func()
	later   *time.Timer
}

var _ dataplane.Ruleset = (*Ruleset)(nil)

// New returns a Ruleset that knows nothing about the kernel yet.
func New(opts Options) *Ruleset {
	return &Ruleset{
		opts: opts, families: map[gateway.Family]*family{}, sets: sets{damage: map[string]dataplane.Repair{}},
		readings: budget.ForReadings(), digests: newDigestBudget(),
	}
}

// family is what is known about one family.
type family struct {
	drift
	builder *rules.Builder
	// written holds our rules as last written.
	written ruleset.Ruleset
	// sets are the sets that the rules of the last Apply name.
	sets []ruleset.Set
	hang
}

func (r *Ruleset) family(name gateway.Family) *family {
	f, found := r.families[name]
	if !found {
		f = &family{builder: rules.NewBuilder(name, r.ruleOptions(r.opts.Sets != nil))}
		r.families[name] = f
	}
	return f
}

func (r *Ruleset) ruleOptions(sets bool) rules.Options {
	return rules.Options{Ownership: r.opts.Ownership, RandomFully: r.opts.RandomFully, Sets: sets}
}

// Families implements dataplane.Ruleset.
func (r *Ruleset) Families() []gateway.Family { return r.opts.Program.Families() }

// Apply implements dataplane.Ruleset. Without changes it reads only the stamps of tables and the sizes of sets.
func (r *Ruleset) Apply(ctx context.Context, name gateway.Family, state gateway.State) (dataplane.Changes, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.joinRound(name)
	var changes dataplane.Changes
	want, setErr := r.build(state, name, &changes)
	f := r.family(name)
	f.sets = want.Sets
	filterErr := f.unlessHung(ctx, func() error { return r.write(ctx, f, want, &changes) })
	changes.InPlace = filterErr == nil
	return changes, errors.Join(setErr, filterErr)
}

// build returns the rules that the state requires, after writing the sets that they name.
func (r *Ruleset) build(state gateway.State, name gateway.Family, changes *dataplane.Changes) (ruleset.Ruleset, error) {
	if slices.Contains(r.opts.GuardOnly, name) {
		return rules.Boundary(state, name, r.ruleOptions(false)), nil
	}
	started := time.Now()
	want := r.family(name).builder.Build(state)
	changes.Took.Build += time.Since(started)
	err := r.putSets(want.Sets, changes)
	if err != nil {
		// Rules cannot name missing sets, so build them without sets.
		want = rules.Build(state, name, r.ruleOptions(false))
	}
	return want, err
}

// write brings the tables of one family to want.
func (r *Ruleset) write(ctx context.Context, f *family, want ruleset.Ruleset, changes *dataplane.Changes) error {
	// An error here is no problem: a verification asks the kernel again.
	_ = r.compareStamps()
	have := f.written
	var damage []dataplane.Repair
	if r.mustRead(want.Family, f, changes) {
		var err error
		if have, damage, err = r.read(ctx, want.Family, changes); err != nil {
			return err
		}
	}
	started := time.Now()
	batch := ruleset.Diff(have, want, r.opts.Ownership.ChainPrefix)
	changes.Took.Diff += time.Since(started)
	if !batch.Empty() {
		before := f.state
		f.state = unknown // until the write succeeds
		started := time.Now()
		err := r.opts.Program.Restore(ctx, batch)
		changes.Took.Restore += time.Since(started)
		if err != nil {
			return fmt.Errorf("writing the IPv%d tables: %w", want.Family, err)
		}
		count(changes, batch)
		changes.Repaired = append(changes.Repaired, damage...)
		f.state = before
		r.stampWrite(f, len(batch.Tables), len(damage) > 0)
	}
	f.written = want
	return nil
}

// read returns the tables of a family and the damage that another process did to our rules.
func (r *Ruleset) read(ctx context.Context, name gateway.Family, changes *dataplane.Changes) (ruleset.Ruleset, []dataplane.Repair, error) {
	f := r.family(name)
	started := time.Now()
	// Take stamp and digest first: the next look then detects writes that happen during the reading.
	stamp, stampErr := r.opts.Program.Stamp(name)
	digest, digestErr := r.opts.Program.Digest(name)
	have, err := r.opts.Program.Save(ctx, name)
	took := time.Since(started)
	changes.Took.Observe += took
	if err != nil {
		f.state = unknown
		return ruleset.Ruleset{}, nil, fmt.Errorf("reading the IPv%d tables: %w", name, err)
	}
	if f.state == suspect {
		r.readings.Spend(time.Now(), took)
	}
	f.wasRead(stamp, stampErr, digest, digestErr)
	if len(f.written.Tables) == 0 {
		return have, nil, nil
	}
	damage := ruleset.Diff(have, f.written, r.opts.Ownership.ChainPrefix)
	changes.Damaged = changes.Damaged || !damage.Empty()
	return have, repairs(damage), nil
}

func count(changes *dataplane.Changes, batch ruleset.Batch) {
	changes.Writes++
	changes.Chains += batch.Chains()
	changes.Rules += batch.Rules()
}

// Guard implements dataplane.Ruleset.
func (r *Ruleset) Guard(ctx context.Context, name gateway.Family, state gateway.State) (dataplane.Changes, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var changes dataplane.Changes
	f := r.family(name)
	err := f.unlessHung(ctx, func() error {
		have, err := r.opts.Program.Save(ctx, name)
		if err != nil {
			return fmt.Errorf("reading the IPv%d tables: %w", name, err)
		}
		have.Family = name
		batch := rules.Guard(have, state, r.ruleOptions(false))
		if batch.Empty() {
			return nil
		}
		f.state = unknown
		if err := r.opts.Program.Restore(ctx, batch); err != nil {
			return fmt.Errorf("writing the IPv%d boundary: %w", name, err)
		}
		count(&changes, batch)
		return nil
	})
	return changes, err
}

// Prune implements dataplane.Ruleset. It removes the sets that no rule names any more, and repairs those that were damaged after the turn of
// their family.
func (r *Ruleset) Prune(context.Context) (dataplane.Changes, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var changes dataplane.Changes
	err := r.settleSets(&changes)
	return changes, err
}

// Plan implements dataplane.Ruleset. It counts what Prune would remove, too.
func (r *Ruleset) Plan(ctx context.Context, name gateway.Family, state gateway.State) (dataplane.Plan, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var plan dataplane.Plan
	have, err := r.observe(ctx, name)
	if err != nil {
		return plan, err
	}
	want := rules.Build(state, name, r.ruleOptions(r.opts.Sets != nil))
	if slices.Contains(r.opts.GuardOnly, name) {
		want = rules.Boundary(state, name, r.ruleOptions(false))
	}
	if batch := ruleset.Diff(have, want, r.opts.Ownership.ChainPrefix); !batch.Empty() {
		count(&plan.Changes, batch)
		plan.Add(dataplane.KindIPTables, name, ruleset.Differences(have, want, r.opts.Ownership.ChainPrefix))
	}
	plan.Add(dataplane.KindIPSet, name, planSets(have.Sets, want.Sets, name, &plan.Changes))
	return plan, nil
}

// planSets counts the sets of a family to write or remove, and the members to add or remove.
func planSets(have, want []ruleset.Set, name gateway.Family, changes *dataplane.Changes) (found packet.Differences) {
	byName := map[string]ruleset.Set{}
	for _, set := range have {
		if set.Family == name {
			byName[set.Name] = set
		}
	}
	for _, set := range want {
		present, exists := byName[set.Name]
		delete(byName, set.Name)
		add, remove := differ(present.Members, set.Members)
		if exists && len(add)+len(remove) == 0 {
			continue
		}
		changes.Sets++
		changes.Members += len(add) + len(remove)
		if !exists {
			found.Add(packet.Difference{Missing: true, Place: set.Name, Text: fmt.Sprintf("a set with %d members", len(set.Members))})
			continue
		}
		for _, members := range []struct {
			list    []netip.Prefix
			missing bool
		}{{add, true}, {remove, false}} {
			for _, member := range members.list {
				found.Add(packet.Difference{Missing: members.missing, Place: set.Name, Text: member.String()})
			}
		}
	}
	changes.Sets += len(byName)
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		found.Add(packet.Difference{Place: name, Text: fmt.Sprintf("a set with %d members", len(byName[name].Members))})
	}
	return found
}

// Remove implements dataplane.Ruleset. It trusts nothing that it remembers.
func (r *Ruleset) Remove(ctx context.Context, name gateway.Family) (dataplane.Changes, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.families, name)
	r.sets = sets{damage: map[string]dataplane.Repair{}}
	var changes dataplane.Changes
	f := r.family(name)
	err := f.unlessHung(ctx, func() error { return r.write(ctx, f, ruleset.Ruleset{Family: name}, &changes) })
	changes.InPlace = err == nil
	return changes, err
}

// Verify implements dataplane.Ruleset.
func (r *Ruleset) Verify() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sets.verify = true
	for _, f := range r.families {
		f.demandProof()
	}
}

// Watch implements dataplane.Ruleset.
func (r *Ruleset) Watch(ctx context.Context, changed func()) error {
	r.mu.Lock()
	r.changed = changed
	r.mu.Unlock()
	return r.opts.Program.Watch(ctx, changed)
}
