// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/iptables/ruleset"
	"github.com/smartnat/smartnat/pkg/policyrouting"
)

// Options configures a Dataplane.
type Options struct {
	Ownership gateway.Ownership
	// RandomFully means that the kernel and iptables support MASQUERADE's --random-fully.
	RandomFully bool
	// GuardOnly lists the families that are not served: their only rules are the boundary.
	GuardOnly []gateway.Family

	IPTables IPTables
	// Other is nil if the host has only one back end.
	Other OtherIPTables
	// Sets is nil if the host does not support sets.
	Sets      Sets
	Routes    Routes
	Sysctls   Sysctls
	Conntrack Conntrack
}

// Dataplane brings the kernel to a State and remembers what it wrote. It reads the kernel only when another process may have
// written. It is safe for concurrent use.
type Dataplane struct {
	opts Options

	mu sync.Mutex
	// families, sets, routing and sysctls are what this Dataplane last wrote.
	families map[gateway.Family]*family
	// mayRead permits reading tables because another process wrote. It is false until the time unread.
	mayRead bool
	unread  time.Time
	// undigested is the time of the next routine digests. Only a verification takes digests earlier.
	undigested time.Time
	// digested is how long the last round of routine digests took.
	digested time.Duration
	// changed requests a Check. Watch sets it. later is the timer that calls it when tables may be read again.
	changed func()
	later   *time.Timer
	sets    sets
	routing policyrouting.Set
	sysctls map[string]string
	// filtering lists the links whose reverse path filter is managed.
	filtering []string
	// unset means that a parameter could not be set.
	unset bool
	// settled is the host configuration last written, or nil if the kernel may differ from it.
	settled *needs
	// swept means that the other back end holds none of our rules.
	swept bool
	// cut is the state that the connections match, or nil if unknown.
	cut *gateway.State
}

// New returns a Dataplane that knows nothing about the kernel yet.
func New(opts Options) *Dataplane {
	d := &Dataplane{opts: opts}
	d.forget()
	return d
}

func (d *Dataplane) forget() {
	d.families, d.sets = map[gateway.Family]*family{}, sets{damage: map[string]Repair{}}
	d.routing, d.sysctls, d.settled, d.cut = policyrouting.Set{}, map[string]string{}, nil, nil
}

// HostChanged makes the next Apply read routes, policy routing rules and kernel parameters.
func (d *Dataplane) HostChanged() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.settled = nil
}

// Verify makes the next Apply prove that the kernel still holds everything that was written, and repair the differences.
func (d *Dataplane) Verify() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.settled = nil
	d.sets.verify = true
	for _, f := range d.families {
		f.verify = true
	}
}

// Watch calls changed whenever a Check is due because rules may have been written. It returns nil when ctx ends, and an error
// if it can no longer watch.
func (d *Dataplane) Watch(ctx context.Context, changed func()) error {
	d.mu.Lock()
	d.changed = changed
	d.mu.Unlock()
	return d.opts.IPTables.Watch(ctx, changed)
}

// Check looks for writes by other processes. Its cost does not depend on the size of the programmed state. It reports whether
// the next Apply has work to do because of such writes or because the ending of connections was postponed.
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

// Apply brings the kernel to the state. A failure does not stop independent steps, and the next Apply observes again whatever
// failed. Additions run in this order: routes and policy routing rules, sets, netfilter, kernel parameters. Parameters come
// last because they let in traffic that the boundary must stop. Removals run in reverse order. Connections follow the rules.
func (d *Dataplane) Apply(ctx context.Context, state gateway.State) (Result, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var result Result
	d.allowReading()
	host := d.newHostChange(state)
	hostErrs := []error{host.prepare(&result)}
	var filterErr, setErr error
	var wanted []ruleset.Set
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
		// Start forwarding only after the boundary is in place.
		hostErrs = append(hostErrs, host.startForwarding(family, &result))
	}
	result.InPlace = filterErr == nil
	errs := []error{setErr, filterErr}
	// After a cancellation, keep whatever the skipped steps may still need.
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

// Cleanup removes everything that is ours and restores the kernel parameters.
func (d *Dataplane) Cleanup(ctx context.Context) (Result, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var result Result
	var errs []error
	d.forget()
	// Stop forwarding, if it was off before us, before removing the boundary.
	restored, err := d.opts.Sysctls.Restore()
	result.Sysctls = restored
	errs = append(errs, err)
	for _, family := range d.opts.IPTables.Families() {
		errs = append(errs, d.filter(ctx, ruleset.Ruleset{Family: family}, &result))
	}
	d.swept = false
	errs = append(errs, d.sweep(ctx, &result), d.destroySets(nil, &result))
	have, err := d.opts.Routes.Observe()
	errs = append(errs, err, d.route(policyrouting.Diff(have, policyrouting.Set{}), &result))
	// Without the rules, the kernel would continue to translate known connections.
	return result, errors.Join(append(errs, d.cutConnections(ctx, gateway.State{}, false, &result))...)
}
