// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/smartnat/smartnat/scripts/bench/load"
)

// plan is the configuration of a run.
type plan struct {
	name     string
	Seed     uint64
	Duration time.Duration
	// least is the minimum number of faults, however long they take.
	least int
	// Dataplane is the gateway's, and Variant that of its iptables.
	Dataplane, Variant string
	Growth             growth
	tempo              tempo
	faults             []string
	// pairs is the number of faults after which two come at once; 0 means never.
	pairs int
	// warmUp decides how many Mappings are created and deleted before the first measurement.
	warmUp uint32
}

// run injects faults for the plan's duration and judges the outcome. The report holds the failures; an error means that the run
// could not finish.
func run(p plan, say func(string)) (report Report, err error) {
	for _, name := range p.faults {
		if find(name).inject == nil {
			return report, fmt.Errorf("unknown fault %q; -list prints all names", name)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), p.Duration+5*time.Minute)
	defer cancel()
	report.Run, report.plan = load.Begin(), p
	w, err := newWorld(ctx, p)
	if err != nil {
		return report, err
	}
	traffic := newLoads(w.Lab)
	defer func() {
		traffic.cancel()
		traffic.group.Wait()
		if err != nil || len(report.Verdict) > 0 {
			say(w.Logs())
		}
		err = errors.Join(err, w.Stop())
		report.End(err)
	}()
	say(fmt.Sprintf("[%4.0f s] the world stands", time.Since(report.Date).Seconds()))
	if err := traffic.start(w); err != nil {
		return report, err
	}
	o, err := w.endure(ctx, p, traffic, func(line string) {
		say(fmt.Sprintf("[%4.0f s] %s", time.Since(report.Date).Seconds(), line))
	})
	if err != nil {
		return report, err
	}
	for _, line := range o.ends() {
		say(line)
	}
	report.outcome, report.Verdict = o, judge(o)
	return report, nil
}

// start starts all traffic.
func (ld *loads) start(w *world) error {
	for _, port := range []uint16{endpointsPort, servicePort} {
		for _, address := range join(port) {
			ld.connect(connections, address)
			ld.stream(address)
			for range 2 {
				ld.hold(address)
			}
		}
	}
	for _, address := range join(flappingPort) {
		ld.connect(connections, address)
	}
	ld.intrude(slices.Concat(join(endpointsPort), join(servicePort), join(guardedPort)))
	return errors.Join(ld.control(), ld.forbidden(w))
}

// endure runs the plan's faults one after the other, and collects the outcome.
func (w *world) endure(ctx context.Context, p plan, traffic *loads, say func(string)) (o outcome, err error) {
	o.Growth = p.Growth
	// A burst allocates memory for good, so have one before the first measurement.
	if _, err := w.have(ctx, step{Fault: "Mappings in bulk", Hold: p.tempo.hold[0], Pick: p.warmUp}); err != nil {
		return o, fmt.Errorf("before the first fault: %w", err)
	}
	if err := w.sample(ctx, &o); err != nil {
		return o, err
	}
	began := time.Now()
	for s := range schedule(p.Seed, p.tempo, p.faults, pairs{p.pairs, fit}) {
		r, err := w.have(ctx, s)
		if err != nil {
			// The cost of this fault has no end.
			r.Failed = err.Error()
			now := time.Now()
			for _, at := range []*time.Time{&r.Injected, &r.Healed, &r.Repaired, &r.Followed} {
				if at.IsZero() {
					*at = now
				}
			}
		}
		if n := len(o.Records); n > 0 {
			o.Records[n-1].Ended = r.Injected
		}
		o.Records = append(o.Records, r)
		say(r.line())
		if r.Failed != "" {
			break
		}
		if err := w.sample(ctx, &o); err != nil {
			return o, err
		}
		if len(o.Records) >= p.least && time.Since(began) > p.Duration {
			break
		}
	}
	wait(ctx, p.tempo.pause[1])
	o.Tracks, o.Answered = traffic.stop()
	o.endLast(time.Now())
	o.Differs, err = w.restartWritesNothing(ctx)
	return o, err
}

// endLast ends the last fault and, if the kernel was not repaired, its window too.
func (o *outcome) endLast(at time.Time) {
	last := &o.Records[len(o.Records)-1]
	last.Ended = at
	if last.Failed != "" {
		last.Repaired, last.Followed = at, at
	}
}

// restartWritesNothing restarts smartnatd, which then reads the whole state of the kernel: anything that it writes was missing.
func (w *world) restartWritesNothing(ctx context.Context) ([]string, error) {
	var differs []string
	writes, stop, err := w.plane.writes(ctx, w)
	if err != nil {
		return nil, err
	}
	defer stop()
	// A change proves that writes are counted.
	if err := w.toggle(ctx); err != nil {
		return nil, err
	}
	if _, err := w.settle(ctx); err != nil {
		return nil, err
	}
	before, err := w.kernel(ctx)
	if err != nil {
		return nil, err
	}
	written := writes()
	if written == 0 {
		return nil, errors.New("no write was counted, so the count proves nothing")
	}
	if err := w.daemon.Restart(ctx); err != nil {
		return nil, err
	}
	if n := writes() - written; n > 0 {
		differs = append(differs, fmt.Sprintf("a restart at the end wrote rules %d times: the kernel was not as desired", n))
	}
	after, err := w.kernel(ctx)
	if diff := cmp.Diff(before, after); diff != "" {
		differs = append(differs, "a restart at the end changed the kernel (-before +after):\n"+diff)
	}
	return differs, err
}
