// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/netfilter"
	"github.com/smartnat/smartnat/pkg/policyrouting"
	"github.com/smartnat/smartnat/pkg/rules"
)

// IPTables reads and writes the tables of netfilter.
type IPTables interface {
	// Families are those that can be programmed.
	Families() []netfilter.Family
	Save(ctx context.Context, family netfilter.Family) (netfilter.Ruleset, error)
	// Restore carries out the batch; after an error some of its tables may be done.
	Restore(ctx context.Context, batch netfilter.Batch) error
}

// Routes reads and writes routes and rules of policy routing.
type Routes interface {
	// Observe returns what is ours.
	Observe() (policyrouting.Set, error)
	// Apply carries out what it can of the changes and returns that.
	Apply(changes policyrouting.Changes) (policyrouting.Changes, error)
}

// Conntrack knows the connections that the kernel translates by what it remembers of their beginning.
type Conntrack interface {
	// Cut ends those of ours that the state does not make, and returns how many. They are known to have been right for the
	// state since; where that is nil, nobody knows.
	Cut(ctx context.Context, since *gateway.State, state gateway.State) (int, error)
}

// Sysctls reads and writes kernel parameters.
type Sysctls interface {
	// List returns the parameters that match a pattern as path.Match has it.
	List(pattern string) ([]string, error)
	// Get's error is fs.ErrNotExist where there is no such parameter.
	Get(key string) (string, error)
	Set(key, value string) error
	// Restore puts back what was there before Set, but for the parameters in keep, and returns those that it changed.
	Restore(keep ...string) ([]string, error)
}

// Options are what a Dataplane is made of.
type Options struct {
	Ownership gateway.Ownership
	// RandomFully is set when the kernel and iptables know MASQUERADE's --random-fully.
	RandomFully bool

	IPTables  IPTables
	Routes    Routes
	Sysctls   Sysctls
	Conntrack Conntrack
}

// Dataplane brings the kernel to a State, and remembers what it wrote. It is safe for several goroutines.
type Dataplane struct {
	opts Options

	mu sync.Mutex
	// families, routing and sysctls are what we know to have written. Routes, rules of policy routing and parameters
	// are few and cheap to read, so the kernel is asked each time; there the memory only tells what went missing.
	families map[netfilter.Family]family
	routing  policyrouting.Set
	sysctls  map[string]string
	// cut is the state that the connections are right for, nil where nobody knows.
	cut *gateway.State
}

type family struct {
	written netfilter.Ruleset
	// trusted is set while nothing says that the kernel may hold something else.
	trusted bool
}

// New returns a Dataplane that knows nothing of the kernel yet.
func New(opts Options) *Dataplane {
	return &Dataplane{opts: opts, families: map[netfilter.Family]family{}, sysctls: map[string]string{}}
}

// Invalidate makes the next Apply read the kernel, and repair what somebody else changed.
func (d *Dataplane) Invalidate() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for name, f := range d.families {
		f.trusted = false
		d.families[name] = f
	}
	d.cut = nil
}

// Apply brings the kernel to the state. What can be done is done, whatever fails beside it; what failed is observed again
// by the next Apply. Additions go from the kernel's parameters by routes and rules of policy routing to netfilter and at
// last to forwarding, removals the other way round. Connections follow the rules.
func (d *Dataplane) Apply(ctx context.Context, state gateway.State) (Result, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var result Result
	errs := []error{d.setSysctls(state, &result)}
	changes, err := d.planRouting(state, &result)
	errs = append(errs, err, d.route(changes.Additions(), &result))
	var filterErr error
	for _, family := range d.opts.IPTables.Families() {
		want := rules.Build(state, family, rules.Options{Ownership: d.opts.Ownership, RandomFully: d.opts.RandomFully})
		if err := d.filter(ctx, want, &result); err != nil {
			filterErr = errors.Join(filterErr, err)
			continue
		}
		// A host that did not forward yet begins to only behind the boundary.
		errs = append(errs, d.startForwarding(family, state, &result))
	}
	errs = append(errs, filterErr)
	// Who was interrupted has not taken away what relies on the rest.
	if ctx.Err() == nil {
		errs = append(errs, d.route(changes.Removals(), &result), d.restoreSysctls(state, &result))
		errs = append(errs, d.cutConnections(ctx, state, filterErr == nil, &result))
	}
	return result, errors.Join(errs...)
}

// Cleanup removes all that is ours and puts the kernel's parameters back.
func (d *Dataplane) Cleanup(ctx context.Context) (Result, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var result Result
	var errs []error
	d.families, d.routing, d.sysctls, d.cut = map[netfilter.Family]family{}, policyrouting.Set{}, map[string]string{}, nil
	// A host that did not forward before us stops before the boundary goes.
	restored, err := d.opts.Sysctls.Restore()
	result.Sysctls = restored
	errs = append(errs, err)
	for _, family := range d.opts.IPTables.Families() {
		errs = append(errs, d.filter(ctx, netfilter.Ruleset{Family: family}, &result))
	}
	have, err := d.opts.Routes.Observe()
	errs = append(errs, err, d.route(policyrouting.Diff(have, policyrouting.Set{}), &result))
	// Without the rules the kernel would go on translating what it remembers.
	return result, errors.Join(append(errs, d.cutConnections(ctx, gateway.State{}, false, &result))...)
}

// planRouting returns what differs between the kernel's policy routing and what the state wants.
func (d *Dataplane) planRouting(state gateway.State, result *Result) (policyrouting.Changes, error) {
	have, err := d.opts.Routes.Observe()
	if err != nil {
		return policyrouting.Changes{}, err
	}
	want := policyrouting.Build(state, d.opts.Ownership)
	changes := policyrouting.Diff(have, want)
	result.Missing = append(result.Missing, missingRouting(changes, d.routing)...)
	d.routing = want
	return changes, nil
}

func (d *Dataplane) route(changes policyrouting.Changes, result *Result) error {
	if changes.Empty() {
		return nil
	}
	done, err := d.opts.Routes.Apply(changes)
	result.Routing = result.Routing.Append(done)
	if err != nil {
		d.routing = policyrouting.Set{} // What could not be written will not have gone missing.
	}
	return err
}

// filter brings one family's tables to want. On the hot path nothing is read.
func (d *Dataplane) filter(ctx context.Context, want netfilter.Ruleset, result *Result) error {
	have := d.families[want.Family].written
	if !d.families[want.Family].trusted {
		var err error
		if have, err = d.readTables(ctx, want.Family, result); err != nil {
			return err
		}
	}
	batch := netfilter.Diff(have, want, d.opts.Ownership.ChainPrefix)
	if !batch.Empty() {
		// Until it is done, nobody knows what the tables hold.
		delete(d.families, want.Family)
		if err := d.opts.IPTables.Restore(ctx, batch); err != nil {
			return fmt.Errorf("writing the IPv%d tables: %w", want.Family, err)
		}
		result.Batches = append(result.Batches, batch)
	}
	d.families[want.Family] = family{written: want, trusted: true}
	return nil
}

// readTables returns what a family's tables hold, and says what somebody else did to what was written there.
func (d *Dataplane) readTables(ctx context.Context, family netfilter.Family, result *Result) (netfilter.Ruleset, error) {
	have, err := d.opts.IPTables.Save(ctx, family)
	if err != nil {
		return netfilter.Ruleset{}, fmt.Errorf("reading the IPv%d tables: %w", family, err)
	}
	if written := d.families[family].written; len(written.Tables) > 0 {
		damage := netfilter.Diff(have, written, d.opts.Ownership.ChainPrefix)
		result.Missing = append(result.Missing, missingRules(damage)...)
	}
	return have, nil
}
