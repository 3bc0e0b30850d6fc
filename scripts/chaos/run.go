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

// plan is what a run is asked to do.
type plan struct {
	name     string
	Seed     uint64
	Duration time.Duration
	// least is how many faults there are however long they take.
	least   int
	Backend string
	Growth  growth
	tempo   tempo
	faults  []string
	// pairs is after how many faults two come at once; 0 is never.
	pairs int
	// warmUp chooses how many Mappings are had before anything is measured.
	warmUp uint32
}

// run breaks things until the plan's time is over, and judges. What it finds wrong is in the report; an error means that it
// could not be found out.
func run(p plan, say func(string)) (report Report, err error) {
	for _, name := range p.faults {
		if find(name).inject == nil {
			return report, fmt.Errorf("no fault is called %q; -list prints them", name)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), p.Duration+5*time.Minute)
	defer cancel()
	report.Run, report.plan = load.Begin(), p
	w, err := newWorld(ctx, p.Backend)
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

// start starts all traffic there is.
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

// endure has the plan's faults, one after the other, and collects what came of it.
func (w *world) endure(ctx context.Context, p plan, traffic *loads, say func(string)) (o outcome, err error) {
	o.Growth = p.Growth
	// What a burst makes grow is there before it is measured what things need.
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
			// There is no end to what it costs.
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

// endLast ends the time of the last fault; where all did not become well again, its window too.
func (o *outcome) endLast(at time.Time) {
	last := &o.Records[len(o.Records)-1]
	last.Ended = at
	if last.Failed != "" {
		last.Repaired, last.Followed = at, at
	}
}

// restartWritesNothing starts smartnatd again, which reads all there is in the kernel: what it still writes was missing.
func (w *world) restartWritesNothing(ctx context.Context) ([]string, error) {
	var differs []string
	before, err := w.kernel(ctx)
	if err != nil {
		return nil, err
	}
	written, err := w.writes()
	if err != nil {
		return nil, err
	}
	if written == 0 {
		return nil, errors.New("not one run of iptables-restore was counted: the count proves nothing")
	}
	if err := w.daemon.Restart(ctx); err != nil {
		return nil, err
	}
	again, err := w.writes()
	if err != nil {
		return nil, err
	}
	if n := again - written; n > 0 {
		differs = append(differs, fmt.Sprintf("a restart at the end ran iptables-restore %d times: the kernel was not as desired", n))
	}
	after, err := w.kernel(ctx)
	if diff := cmp.Diff(before, after); diff != "" {
		differs = append(differs, "a restart at the end changed the kernel (-before +after):\n"+diff)
	}
	return differs, err
}
