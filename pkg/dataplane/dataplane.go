// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/packet"
	"github.com/smartnat/smartnat/pkg/policyrouting"
)

// Options configures a Dataplane.
type Options struct {
	Ownership gateway.Ownership
	// GuardOnly lists the families that are not served: the boundary is all that the Ruleset writes for them.
	GuardOnly []gateway.Family
	// CountTraffic makes the kernel count packets and bytes of each connection.
	CountTraffic bool
	// TakeOver makes the kernel go on with connections that another gateway had for a while.
	TakeOver bool
	// RecordTimes makes the kernel record when each connection began.
	RecordTimes bool

	Ruleset Ruleset
	// Leftovers are removed once, after the Ruleset is in effect, so that a host can change its kernel API without a gap.
	Leftovers []Leftovers
	Routes    Routes
	Sysctls   Sysctls
	Conntrack Conntrack
}

// Dataplane brings the kernel to a State and remembers what it wrote. It reads the kernel only when another process may have
// written. It is safe for concurrent use.
type Dataplane struct {
	opts Options

	mu sync.Mutex
	// routing and sysctls are what this Dataplane last wrote.
	routing policyrouting.Set
	sysctls map[string]string
	// filtering lists the links whose reverse path filter is managed.
	filtering []string
	// unset means that a parameter could not be set.
	unset bool
	// hostInSync is the host configuration last written, or nil if the kernel may differ from it.
	hostInSync *needs
	// swept means that there are no Leftovers.
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
	d.routing, d.sysctls, d.hostInSync, d.swept, d.cut = policyrouting.Set{}, map[string]string{}, nil, false, nil
}

// HostChanged makes the next Apply read routes, policy routing rules and kernel parameters.
func (d *Dataplane) HostChanged() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.hostInSync = nil
}

// Verify makes the next Apply prove that the kernel still holds everything that was written, and repair the differences.
func (d *Dataplane) Verify() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.hostInSync = nil
	d.opts.Ruleset.Verify()
}

// Watch calls changed whenever a Check is due because rules may have been written. It returns nil when ctx ends, and an error
// if it can no longer watch.
func (d *Dataplane) Watch(ctx context.Context, changed func()) error {
	return d.opts.Ruleset.Watch(ctx, changed)
}

// Try returns an error if the kernel refuses rules of the state. It does not affect packets.
func (d *Dataplane) Try(ctx context.Context, state gateway.State) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.opts.Ruleset.Try(ctx, state)
}

// Tracer returns a model of what the rules that are now in the kernel do to packets of a family.
func (d *Dataplane) Tracer(ctx context.Context, family gateway.Family) (packet.Tracer, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.opts.Ruleset.Tracer(ctx, family)
}

// Check looks for writes by other processes. Its cost does not depend on the size of the programmed state. It reports whether
// the next Apply has work to do because of such writes or because the ending of connections was postponed.
func (d *Dataplane) Check() (bool, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	rulesChanged, rulesErr := d.opts.Ruleset.Drift()
	sysctlsChanged, sysctlErr := d.checkSysctls()
	if sysctlsChanged {
		d.hostInSync = nil
	}
	return rulesChanged || sysctlsChanged || d.opts.Conntrack.Pending(), errors.Join(rulesErr, sysctlErr)
}

// Apply brings the kernel to the state. A failure does not stop independent steps, and the next Apply observes again whatever
// failed. Additions run in this order: routes and policy routing rules, packet rules, kernel parameters. Parameters come last
// because they let in traffic that the boundary must stop. Removals run in reverse order. Connections follow the rules.
func (d *Dataplane) Apply(ctx context.Context, state gateway.State) (Result, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var result Result
	host := d.newHostChange(state)
	hostErrs := []error{host.prepare(&result)}
	var errs []error
	result.InPlace = true
	for _, family := range d.opts.Ruleset.Families() {
		changes, err := d.opts.Ruleset.Apply(ctx, family, state)
		d.add(changes, &result)
		if !changes.InPlace && d.harmless(family) {
			continue
		}
		errs = append(errs, err)
		if !changes.InPlace {
			result.InPlace = false
			continue
		}
		// Start forwarding only after the boundary is in place.
		hostErrs = append(hostErrs, host.startForwarding(family, &result))
	}
	// After a cancellation, keep whatever the skipped steps may still need.
	if ctx.Err() == nil {
		if result.InPlace {
			errs = append(errs, d.sweep(ctx, &result))
		}
		hostErrs = append(hostErrs, host.finish(&result))
		errs = append(errs, d.cutConnections(ctx, state, result.InPlace, &result))
	}
	hostErr := errors.Join(hostErrs...)
	d.hostInSync = nil
	if hostErr == nil && result.InPlace && ctx.Err() == nil {
		d.hostInSync = &host.needs
	}
	return result, errors.Join(append(errs, hostErr)...)
}

// add adds changes to the result. Rules that another process had damaged may have let in connections that must end.
func (d *Dataplane) add(changes Changes, result *Result) {
	result.Changes = result.append(changes)
	if changes.Damaged {
		d.cut = nil
	}
}

// sweep removes Leftovers, once, and then what no rule needs any more: a leftover may be a rule that needs it.
func (d *Dataplane) sweep(ctx context.Context, result *Result) error {
	var errs []error
	if !d.swept {
		for _, leftovers := range d.opts.Leftovers {
			changes, err := leftovers.Remove(ctx)
			d.add(changes, result)
			errs = append(errs, err)
		}
		d.swept = errors.Join(errs...) == nil
	}
	changes, err := d.opts.Ruleset.Prune(ctx)
	d.add(changes, result)
	return errors.Join(append(errs, err)...)
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
	for _, family := range d.opts.Ruleset.Families() {
		changes, err := d.opts.Ruleset.Remove(ctx, family)
		d.add(changes, &result)
		errs = append(errs, err)
	}
	errs = append(errs, d.sweep(ctx, &result))
	have, err := d.opts.Routes.Observe()
	errs = append(errs, err, d.route(policyrouting.Diff(have, policyrouting.Set{}), &result))
	// Without the rules, the kernel would continue to translate known connections.
	return result, errors.Join(append(errs, d.cutConnections(ctx, gateway.State{}, false, &result))...)
}

// Guard writes the boundary that the state requires, in all families, and removes nothing: the kernel continues to forward for
// Mappings that are not known yet. It serves the time before the first Apply.
func (d *Dataplane) Guard(ctx context.Context, state gateway.State) (Result, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var result Result
	var errs []error
	for _, family := range d.opts.Ruleset.Families() {
		changes, err := d.opts.Ruleset.Guard(ctx, family, state)
		d.add(changes, &result)
		if err != nil && !d.harmless(family) {
			errs = append(errs, err)
		}
	}
	return result, errors.Join(errs...)
}

// harmless reports whether the host can do without the boundary of a family: the family is not served, and the host does not
// forward it.
func (d *Dataplane) harmless(name gateway.Family) bool {
	if !slices.Contains(d.opts.GuardOnly, name) {
		return false
	}
	forwarding, err := d.opts.Sysctls.Get(map[gateway.Family]string{gateway.IPv4: ipForward, gateway.IPv6: ipv6Forward}[name])
	return err == nil && forwarding == "0"
}

// cutConnections ends the connections that the state no longer makes, whose next packets meet other rules. If the rules are not
// inPlace, the next Apply cuts again, because the old rules may bring back a connection that was ended.
func (d *Dataplane) cutConnections(ctx context.Context, state gateway.State, inPlace bool, result *Result) error {
	since := d.cut
	d.cut = nil
	started := time.Now()
	n, err := d.opts.Conntrack.EndStale(ctx, since, state)
	result.Took.Cut += time.Since(started)
	result.Connections += n
	if err != nil {
		return fmt.Errorf("ending connections that are not wanted any more: %w", err)
	}
	if inPlace {
		d.cut = &state
	}
	return nil
}
