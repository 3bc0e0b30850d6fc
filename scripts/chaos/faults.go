// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"context"
	"time"
)

// fault is something that can go wrong.
type fault struct {
	name    string
	promise promise
	// opens is set for one that takes the boundary away with the rest.
	opens bool
	// counted is set for one that smartnatd has to tell of in its metric of repairs.
	counted bool
	// backend is the only one that has it; both have when it is empty.
	backend string
	// changes is set for one during which the cluster changes: what must come through afterwards.
	changes bool
	// churn is set for what is no fault, but a cluster at work.
	churn bool
	// slow is how many times longer than others it is held; 0 is as long.
	slow time.Duration
	// quick is set for one that is over in seconds, also on a busy machine.
	quick  bool
	inject func(ctx context.Context, w *world, s step) (injury, error)
}

// injury is a fault that was done.
type injury struct {
	variant string
	scope   scope
	// heal mends it, after a while; it is nil where that is over already, or SmartNat's to do.
	heal func(context.Context) error
}

// faults are all there are.
func faults() []fault {
	all := append(clusterFaults(), daemonFaults()...)
	return append(append(all, handFaults()...), linkFaults()...)
}

// choose names those that a run has.
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

// have has one fault from its pause until all is as it should be again, and says how that went. An error means that nothing
// more can be tried.
func (w *world) have(ctx context.Context, s step) (r record, err error) {
	f := find(s.Fault)
	r = record{step: s, Promise: f.promise, Opens: f.opens}
	wait(ctx, s.Pause)
	before, err := w.arrived(ctx)
	if err != nil {
		return r, err
	}
	repairs, err := w.metric(ctx, repairsTotal)
	if err != nil {
		return r, err
	}
	r.Injected = time.Now()
	done, err := f.inject(ctx, w, s)
	r.Variant, r.Scope = done.variant, done.scope
	if err != nil {
		return r, err
	}
	if f.changes {
		if err := w.toggle(ctx); err != nil {
			return r, err
		}
	}
	if done.heal != nil {
		wait(ctx, s.Hold*max(f.slow, 1))
		if err := done.heal(ctx); err != nil {
			return r, err
		}
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
	if err == nil && f.counted {
		total, metricErr := w.metric(ctx, repairsTotal)
		r.Uncounted, err = total <= repairs, metricErr
	}
	return r, err
}

// repairsTotal counts what somebody else removed and smartnatd put back.
const repairsTotal = "smartnat_repairs_total"

func wait(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
