// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/netfilter"
	"github.com/smartnat/smartnat/pkg/policyrouting"
)

// Options are what a Dataplane is made of.
type Options struct {
	Ownership gateway.Ownership
	// RandomFully is set when the kernel and iptables know MASQUERADE's --random-fully.
	RandomFully bool
	// GuardOnly are the families of which nothing is served: of the rules they have the boundary alone.
	GuardOnly []netfilter.Family

	IPTables IPTables
	// Other is nil where there is one back end only.
	Other OtherIPTables
	// Sets is nil where the host knows no sets.
	Sets      Sets
	Routes    Routes
	Sysctls   Sysctls
	Conntrack Conntrack
}

// Dataplane brings the kernel to a State, and remembers what it wrote: while nothing says that somebody else wrote too, the
// kernel is not read. It is safe for several goroutines.
type Dataplane struct {
	opts Options

	mu sync.Mutex
	// families, sets, routing and sysctls are what we know to have written.
	families map[netfilter.Family]*family
	// mayRead is whether tables are read because somebody else wrote; they are not until unread.
	mayRead bool
	unread  time.Time
	// undigested is until when no digests are asked for that nobody needs.
	undigested time.Time
	// digested is how long the last look took that did.
	digested time.Duration
	// changed, where somebody watches, asks for a Check; later does so once tables may be read.
	changed func()
	later   *time.Timer
	sets    sets
	routing policyrouting.Set
	sysctls map[string]string
	// filtering are the links whose reverse path filter is looked after.
	filtering []string
	// unset is set while a parameter could not be set.
	unset bool
	// settled is what routing and sysctls were written for, nil while the kernel may hold something else.
	settled *needs
	// swept is set once the other back end holds nothing of ours.
	swept bool
	// cut is the state that the connections are right for, nil where nobody knows.
	cut *gateway.State
}

// New returns a Dataplane that knows nothing of the kernel yet.
func New(opts Options) *Dataplane {
	d := &Dataplane{opts: opts}
	d.forget()
	return d
}

func (d *Dataplane) forget() {
	d.families, d.sets = map[netfilter.Family]*family{}, sets{damage: map[string]Repair{}}
	d.routing, d.sysctls, d.settled, d.cut = policyrouting.Set{}, map[string]string{}, nil, nil
}

// HostChanged makes the next Apply read routes, rules of policy routing and the kernel's parameters.
func (d *Dataplane) HostChanged() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.settled = nil
}

// Verify makes the next Apply find out for sure whether the kernel still holds all that was written, and repair it.
func (d *Dataplane) Verify() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.settled = nil
	d.sets.verify = true
	for _, f := range d.families {
		f.verify = true
	}
}

// Watch calls changed whenever it is time for a Check, because rules may have been written, until ctx ends, which is no
// error, or until it can watch no longer.
func (d *Dataplane) Watch(ctx context.Context, changed func()) error {
	d.mu.Lock()
	d.changed = changed
	d.mu.Unlock()
	return d.opts.IPTables.Watch(ctx, changed)
}

// Check looks whether somebody else wrote, at a cost that is bounded whatever is programmed, and reports whether the next
// Apply is going to do something because of that, or because connections were left for later.
func (d *Dataplane) Check() (bool, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.allowReading()
	tablesErr := errors.Join(d.lookAtTables(), d.lookClosely())
	changed := d.readingIsDue()
	setsChanged, setsErr := d.lookAtSets()
	sysctlsChanged, sysctlErr := d.lookAtSysctls()
	if sysctlsChanged {
		d.settled = nil
	}
	return changed || setsChanged || sysctlsChanged || d.opts.Conntrack.Owes(), errors.Join(tablesErr, setsErr, sysctlErr)
}

// Apply brings the kernel to the state. What can be done is done, whatever fails beside it; what failed is observed again
// by the next Apply. Additions go from routes and rules of policy routing by sets and netfilter to the kernel's parameters,
// which let in what the boundary is to stop; removals go the other way round. Connections follow the rules.
func (d *Dataplane) Apply(ctx context.Context, state gateway.State) (Result, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var result Result
	d.allowReading()
	host := d.newHostChange(state)
	hostErrs := []error{host.prepare(&result)}
	var filterErr, setErr error
	var wanted []netfilter.Set
	for _, family := range d.opts.IPTables.Families() {
		want, err := d.build(state, family, &result)
		setErr = errors.Join(setErr, err)
		wanted = append(wanted, want.Sets...)
		if err := d.filter(ctx, want, &result); err != nil {
			if d.harmless(family) {
				continue
			}
			filterErr = errors.Join(filterErr, err)
			continue
		}
		// A host that did not forward yet begins to only behind the boundary.
		hostErrs = append(hostErrs, host.startForwarding(family, &result))
	}
	result.InPlace = filterErr == nil
	errs := []error{setErr, filterErr}
	// Who was interrupted has not taken away what relies on the rest.
	if ctx.Err() == nil {
		if filterErr == nil {
			errs = append(errs, d.sweep(ctx, &result), d.destroySets(wanted, &result))
		}
		hostErrs = append(hostErrs, host.finish(&result))
		errs = append(errs, d.cutConnections(ctx, state, filterErr == nil, &result))
	}
	hostErr := errors.Join(hostErrs...)
	d.settled = nil
	if hostErr == nil && filterErr == nil && ctx.Err() == nil {
		d.settled = &host.needs
	}
	return result, errors.Join(append(errs, hostErr)...)
}

// Cleanup removes all that is ours and puts the kernel's parameters back.
func (d *Dataplane) Cleanup(ctx context.Context) (Result, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var result Result
	var errs []error
	d.forget()
	// A host that did not forward before us stops before the boundary goes.
	restored, err := d.opts.Sysctls.Restore()
	result.Sysctls = restored
	errs = append(errs, err)
	for _, family := range d.opts.IPTables.Families() {
		errs = append(errs, d.filter(ctx, netfilter.Ruleset{Family: family}, &result))
	}
	d.swept = false
	errs = append(errs, d.sweep(ctx, &result), d.destroySets(nil, &result))
	have, err := d.opts.Routes.Observe()
	errs = append(errs, err, d.route(policyrouting.Diff(have, policyrouting.Set{}), &result))
	// Without the rules the kernel would go on translating what it remembers.
	return result, errors.Join(append(errs, d.cutConnections(ctx, gateway.State{}, false, &result))...)
}
