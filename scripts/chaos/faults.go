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
	// kind is what it is done to: two of one kind are never had at once.
	kind kind
	// missed is set where new connections miss what it takes out of the kernel until that is back.
	missed bool
	// opens is set for one that takes the boundary away with the rest.
	opens bool
	// alone is set for one beside which no other is had: it is done to more than its kind.
	alone bool
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

// kind is what faults are done to.
type kind string

const (
	ofCluster kind = "the cluster"
	ofDaemon  kind = "smartnatd"
	ofKernel  kind = "the gateway's kernel"
	ofUplink  kind = "an uplink"
)

// injury is a fault that was done.
type injury struct {
	variant string
	scope   scope
	// heal mends it, after a while; it is nil where that is over already, or SmartNat's to do.
	heal func(context.Context) error
}

// faults are all there are.
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

// fit reports whether two faults may be had at once.
func fit(first, second string) bool {
	a, b := find(first), find(second)
	return a.kind != b.kind && !a.alone && !b.alone
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

// have has one fault, or two at once, from the pause until all is as it should be again, and says how that went. An error
// means that nothing more can be tried.
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
	// Of two at once, the one may leave nothing to repair of the other.
	if err == nil && s.Second == nil && find(s.Fault).counted {
		total, metricErr := w.metric(ctx, lab.Gateway, daemonMetrics, repairsTotal)
		r.Uncounted, err = total <= repairs, metricErr
	}
	return r, err
}

// newRecord is one of which nothing has been had yet.
func newRecord(s step) record {
	r := record{step: s}
	for _, part := range s.parts() {
		r.Opens = r.Opens || find(part.Fault).opens
	}
	return r
}

// suffer does what a record is of, holds it and mends it. The second of two begins halfway through the first, and ends after it.
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
		// Under the second nothing changes: the first may be that nothing can be changed.
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

// repairsTotal counts what somebody else removed and smartnatd put back.
const repairsTotal = "smartnat_repairs_total"

func wait(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
