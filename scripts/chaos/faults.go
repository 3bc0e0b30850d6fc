// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"context"
	"strings"
	"time"

	"github.com/smartnat/smartnat/scripts/lab"
)

// fault is something that can go wrong.
type fault struct {
	name string
	// kind is what the fault affects: two faults of one kind never run at once.
	kind kind
	// missed is set if new connections may fail until the repair.
	missed bool
	// opens is set if the fault removes the boundary too.
	opens bool
	// alone is set if the fault affects more than its kind, so that it cannot be paired.
	alone bool
	// counted is set if smartnatd must count the repair in its metrics.
	counted bool
	// dataplane is the only data plane that the fault applies to; empty means both.
	dataplane string
	// iptables is the only variant of iptables that the fault applies to; empty means both.
	iptables string
	// changes is set if the cluster changes during the fault; the change must get through afterwards.
	changes bool
	// churn is set for activity of the cluster that is no fault.
	churn bool
	// slow multiplies the time that the fault is held; 0 means 1.
	slow time.Duration
	// quick is set if the fault takes only seconds, even on a busy machine.
	quick  bool
	inject func(ctx context.Context, w *world, s step) (injury, error)
}

// kind is what a fault affects.
type kind string

const (
	ofCluster kind = "the cluster"
	ofDaemon  kind = "smartnatd"
	ofKernel  kind = "the gateway's kernel"
	ofUplink  kind = "an uplink"
)

// injury is an injected fault.
type injury struct {
	variant string
	scope   scope
	// heal ends the fault; it is nil if the fault has already ended, or if SmartNat must repair it.
	heal func(context.Context) error
}

// faults returns all faults.
func faults() []fault {
	var all []fault
	add := func(k kind, some []fault) {
		for _, f := range some {
			f.kind = k
			all = append(all, f)
		}
	}
	add(ofCluster, clusterFaults())
	add(ofDaemon, daemonFaults())
	add(ofKernel, handFaults())
	add(ofUplink, linkFaults())
	return all
}

// fit reports whether two faults may run at once.
func fit(first, second string) bool {
	a, b := find(first), find(second)
	return a.kind != b.kind && !a.alone && !b.alone
}

// choose returns the names of the accepted faults.
func choose(accept func(fault) bool) []string {
	var names []string
	for _, f := range faults() {
		if accept(f) {
			names = append(names, f.name)
		}
	}
	return names
}

func find(name string) fault {
	for _, f := range faults() {
		if f.name == name {
			return f
		}
	}
	return fault{name: name}
}

// have runs one step, a fault or two at once, from the pause until everything is repaired, and records the outcome. After an error,
// the run cannot continue.
func (w *world) have(ctx context.Context, s step) (r record, err error) {
	r = newRecord(s)
	wait(ctx, s.Pause)
	before, err := w.arrived(ctx)
	if err != nil {
		return r, err
	}
	repairs, err := w.metric(ctx, lab.Gateway, daemonMetrics, repairsTotal)
	if err != nil {
		return r, err
	}
	r.Injected = time.Now()
	if err := w.suffer(ctx, &r); err != nil {
		return r, err
	}
	r.Healed = time.Now()
	if r.Repaired, err = w.settle(ctx); err != nil {
		return r, err
	}
	repaired, err := w.arrived(ctx)
	if err != nil {
		return r, err
	}
	r.Passed = repaired - before
	if err := w.toggle(ctx); err != nil {
		return r, err
	}
	if r.Followed, err = w.settle(ctx); err != nil {
		return r, err
	}
	after, err := w.arrived(ctx)
	r.PassedAfter = after - repaired
	// With two faults at once, one may leave nothing to repair of the other.
	if err == nil && s.Second == nil && find(s.Fault).counted {
		total, metricErr := w.metric(ctx, lab.Gateway, daemonMetrics, repairsTotal)
		r.Uncounted, err = total <= repairs, metricErr
	}
	return r, err
}

// newRecord returns the record of a step that has not run yet.
func newRecord(s step) record {
	r := record{step: s}
	for _, part := range s.parts() {
		r.Opens = r.Opens || find(part.Fault).opens
	}
	return r
}

// suffer injects, holds and heals the faults of a record. The second of two begins halfway through the first, and ends after it.
func (w *world) suffer(ctx context.Context, r *record) error {
	var heals []func(context.Context) error
	for i, part := range r.parts() {
		f, hold := find(part.Fault), part.Hold
		if r.Second != nil {
			hold /= 2
		} else if f.slow > 0 {
			hold *= f.slow
		}
		began := time.Now()
		done, err := f.inject(ctx, w, part)
		if f.missed {
			r.Effects = append(r.Effects, effect{done.scope, began})
		}
		r.Variant = strings.TrimPrefix(r.Variant+and+done.variant, and)
		if err != nil {
			return err
		}
		// Nothing changes under the second fault: the first may prevent changes.
		if f.changes && i == 0 {
			if err := w.toggle(ctx); err != nil {
				return err
			}
		}
		if done.heal != nil {
			heals = append(heals, done.heal)
		}
		if len(heals) > 0 {
			wait(ctx, hold)
		}
	}
	for i, heal := range heals {
		if i > 0 {
			wait(ctx, r.Second.Hold/2)
		}
		if err := heal(ctx); err != nil {
			return err
		}
	}
	return nil
}

// repairsTotal counts external modifications that smartnatd repaired.
const repairsTotal = "smartnat_repairs_total"

func wait(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
