// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/smartnat/smartnat/scripts/bench/load"
	"github.com/smartnat/smartnat/scripts/bench/process"
	"github.com/smartnat/smartnat/scripts/bench/ways"
	"github.com/smartnat/smartnat/scripts/lab"
)

const (
	// startPoll and changePoll are the intervals between connection attempts. Shorter ones would take processor time from the
	// contender.
	startPoll  = 2 * time.Millisecond
	changePoll = 500 * time.Microsecond
	settleTime = 15 * time.Second
)

var errCapped = errors.New("capped")

// measure runs all measurements of a contender.
func (b *bench) measure(ctx context.Context, w *world, c Contender, ports int) (result Result) {
	result = Result{Contender: c, scenery: w.scenery, Ports: ports, Cap: b.plan.cap.Seconds()}
	r, err := b.starts(ctx, w, c, &result)
	if r != nil {
		defer func() { _ = r.stop(ctx) }() // the gateway is removed anyway
	}
	for _, step := range []func(context.Context, *world, runner, *Result) error{b.size, b.changes, b.connections, b.memory, b.idle} {
		if err != nil {
			break
		}
		err = step(ctx, w, r, &result)
	}
	if err != nil && !errors.Is(err, errCapped) {
		result.Failed = err.Error()
	}
	return result
}

// starts runs the contender several times, each on a new gateway until the last port answers, and returns it running.
func (b *bench) starts(ctx context.Context, w *world, c Contender, result *Result) (r runner, err error) {
	began := time.Now()
	for i := 0; i < b.plan.starts && (i == 0 || time.Since(began) < b.plan.startTime); i++ {
		if err := w.RenewGateway(ctx, lab.WithVariant(c.iptables())); err != nil {
			return nil, err
		}
		r = c.runner(w, result.Ports)
		if err := r.prepare(ctx); err != nil {
			return r, fmt.Errorf("preparing: %w", err)
		}
		if err := w.settle(ctx); err != nil {
			return r, err
		}
		took, err := b.start(ctx, w, r, result.Ports)
		if errors.Is(err, errCapped) {
			result.Capped, result.Said = append(result.Capped, "start"), lastWords(r)
		}
		if err != nil {
			return r, err
		}
		if err := b.settle(ctx, r); err != nil {
			return r, err
		}
		used, err := r.used()
		if err != nil {
			return r, err
		}
		result.Starts, result.StartCPU = append(result.Starts, took.Seconds()), append(result.StartCPU, used.Seconds())
	}
	return r, nil
}

func (b *bench) start(ctx context.Context, w *world, r runner, ports int) (time.Duration, error) {
	limit, cancel := context.WithTimeoutCause(ctx, b.plan.cap, errCapped)
	defer cancel()
	started := make(chan error, 1)
	began := time.Now()
	go func() {
		err := r.start(limit)
		if err != nil && limit.Err() == nil {
			cancel() // stop the other wait
		}
		started <- err
	}()
	answered, err := load.Until(limit, w.Host(lab.Client), w.external(ports-1), 0, startPoll)
	if err := <-started; err != nil && !errors.Is(context.Cause(limit), errCapped) {
		return 0, fmt.Errorf("starting: %w", err)
	}
	return answered.Sub(began), err
}

// lastWords returns the last log lines of the contender.
func lastWords(r runner) string {
	if r.process() == nil {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(r.process().Log()), "\n")
	return strings.Join(lines[max(0, len(lines)-3):], "\n")
}

// settle waits until a contender is idle for a second.
func (b *bench) settle(ctx context.Context, r runner) error {
	if r.process() == nil {
		return nil
	}
	return process.Settle(ctx, r.used, 2*process.Tick, settleTime)
}

// memory records the program's memory now, or an earlier larger value.
func (b *bench) memory(_ context.Context, _ *world, r runner, result *Result) error {
	if r.process() == nil {
		return nil
	}
	now, err := process.ReadMemory(r.process().PID())
	if err == nil && (result.Memory == nil || now.RSS > result.Memory.RSS) {
		result.Memory = &now
	}
	return err
}

// size records the contender's memory and the number of its rules.
func (b *bench) size(ctx context.Context, w *world, r runner, result *Result) error {
	if err := b.memory(ctx, w, r, result); err != nil {
		return err
	}
	if result.Backend == nftables {
		return nil
	}
	program := "iptables-save"
	if w.Family == "IPv6" {
		program = "ip6tables-save"
	}
	limit, cancel := context.WithTimeoutCause(ctx, b.plan.cap, errCapped)
	defer cancel()
	text, err := w.Host(lab.Gateway).Exec(limit, program)
	if errors.Is(context.Cause(limit), errCapped) {
		result.Capped = append(result.Capped, "size")
		return nil
	}
	if err != nil {
		return err
	}
	result.Rules, result.Chains = strings.Count(text, "\n-A "), strings.Count(text, "\n:")
	return nil
}

// changes moves the watched endpoint repeatedly.
func (b *bench) changes(ctx context.Context, w *world, r runner, result *Result) error {
	if w.Mode == "service" {
		return nil // the gateway does not use endpoints
	}
	before, err := r.used()
	if err != nil {
		return err
	}
	journal, err := w.newJournal(ctx, r)
	if err != nil {
		return err
	}
	defer journal.close()
	began, last := time.Now(), time.Duration(0)
	for i := 0; i < b.plan.changes && (i < 3 || time.Since(began) < b.plan.changeTime); i++ {
		// The contender may have work left after the change is visible, more so the longer the change took.
		if err := load.Sleep(ctx, r.pause()+last); err != nil {
			return err
		}
		limit, cancel := context.WithTimeoutCause(ctx, b.plan.cap, errCapped)
		c := change{}
		said, now, err := r.change(limit)
		if err == nil {
			if n := len(journal.changes); n > 0 && journal.changes[n-1].address == now.String() {
				err = fmt.Errorf("the endpoint is already at %s", now)
			}
		}
		if err == nil {
			address := now.As16()
			c = change{said: said, address: now.String()}
			c.seen, err = load.Until(limit, w.Host(lab.Client), w.external(watched*ways.PortsPerMapping), address[15], changePoll)
		}
		cancel()
		if errors.Is(err, errCapped) {
			result.Capped, result.Said = append(result.Capped, "change"), lastWords(r)
			return err
		}
		if err != nil {
			return fmt.Errorf("changing the endpoint: %w", err)
		}
		last = c.seen.Sub(c.said)
		journal.changes = append(journal.changes, c)
		result.Changes = append(result.Changes, milliseconds(c.seen.Sub(c.said)))
	}
	if err := b.settle(ctx, r); err != nil {
		return err
	}
	after, err := r.used()
	result.ChangeCPU = milliseconds(after-before) / float64(len(result.Changes))
	result.Stages = journal.stages()
	return err
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// connections compares new connections through the contender with those through the routing hosts.
func (b *bench) connections(ctx context.Context, w *world, _ runner, result *Result) error {
	n := result.Ports
	m, err := ways.Compare(ctx, w.Lab, load.Connections, w.Family, ways.Targets{
		Plain:   ways.PodTargets(w.Family, ways.PlainPods, n),
		Tracked: ways.PodTargets(w.Family, ways.TrackedPods, n),
		Mapped:  w.mapped(n),
	}, b.plan.turns)
	if err != nil {
		return fmt.Errorf("connections: %w", err)
	}
	result.Connections = &m
	return nil
}

// idle measures SmartNat without changes, with the number of ports that its goal is defined for.
func (b *bench) idle(ctx context.Context, _ *world, r runner, result *Result) error {
	if result.Name != smartnat || result.Ports != b.plan.idleAt || result.scenery != usual {
		return nil
	}
	if err := load.Sleep(ctx, b.plan.beforeIdle); err != nil {
		return err
	}
	i, err := watchIdle(ctx, r, b.plan.idle)
	result.Idle = &i
	return err
}
