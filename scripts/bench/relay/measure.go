// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"context"
	"fmt"
	"time"

	"github.com/smartnat/smartnat/scripts/bench/load"
	"github.com/smartnat/smartnat/scripts/bench/process"
)

// Relay is what the relay takes with nobody watching.
type Relay struct {
	// Seconds are from its start to being ready, CPU the processor time until all was quiet: it writes the status of all
	// Mappings, too.
	Seconds float64 `json:"seconds"`
	CPU     float64 `json:"cpu"`
	// Idle is the share of a core, in percent, while nothing changes.
	Idle   float64        `json:"idle"`
	Memory process.Memory `json:"memory"`
	// PerChange is the processor time, in ms, for one change of an EndpointSlice that nobody may see.
	PerChange float64 `json:"perChange"`
}

// Watched is one server with all watchers. Times are in milliseconds.
type Watched struct {
	Server string `json:"server"`
	// Opened is how long it took until the last watcher had all, and OpenedCPU the processor time for all of them.
	Opened    float64 `json:"opened"`
	OpenedCPU float64 `json:"openedCPU"`
	// Before and After are its memory without and with them.
	Before process.Memory `json:"before"`
	After  process.Memory `json:"after"`
	// InitialBytes are what one received until it had all, EventBytes what it received for a change.
	InitialBytes float64 `json:"initialBytes"`
	EventBytes   float64 `json:"eventBytes"`
	// Written is how long the API server took to answer each write.
	Written []float64 `json:"written"`
	// Median, P99 and Last are from asking the API server for a write to the event's arrival, over all writes and watchers;
	// Slowest is the median of the last watcher's of each write.
	Median, P99, Last, Slowest float64
	// Missing counts events that did not arrive in time.
	Missing int `json:"missing"`
	// EventCPU is the processor time, in µs, of one event for one watcher.
	EventCPU float64 `json:"eventCPU"`
	// Refused and Broken are requests that were refused, and connections that broke or did not come to be.
	Refused int64 `json:"refused"`
	Broken  int64 `json:"broken"`
}

// perWatcher is the memory of one, in kB.
func (w Watched) perWatcher(watchers int) float64 {
	return 1000 * (w.After.RSS - w.Before.RSS) / float64(watchers)
}

// Storm is what happens when the relay is killed and started again under its watchers. Seconds are since it was killed.
type Storm struct {
	Ready  float64 `json:"ready"`
	Median float64 `json:"median"`
	P99    float64 `json:"p99"`
	Last   float64 `json:"last"`
	// Bytes are what one received until it had all again.
	Bytes   float64        `json:"bytes"`
	CPU     float64        `json:"cpu"`
	Memory  process.Memory `json:"memory"`
	Refused int64          `json:"refused"`
	Broken  int64          `json:"broken"`
}

// startRelay starts it with the limits that it has by default.
func (b *bench) startRelay(ctx context.Context) (s server, err error) {
	began := time.Now()
	running, err := b.world.StartRelay(ctx)
	if err != nil {
		return s, err
	}
	r := &b.report.Relay
	r.Seconds = time.Since(began).Seconds()
	s = server{name: relayName, url: relayURL, process: running}
	if err := settle(ctx, s, b.plan.patience); err != nil {
		return s, err
	}
	used, err := process.Time(s.process.PID())
	if err != nil {
		return s, err
	}
	r.CPU = used.Seconds()
	if r.Memory, err = process.ReadMemory(s.process.PID()); err != nil {
		return s, err
	}
	if err := load.Sleep(ctx, b.plan.idle); err != nil {
		return s, err
	}
	now, err := process.Time(s.process.PID())
	r.Idle = 100 * (now - used).Seconds() / b.plan.idle.Seconds()
	return s, err
}

// churn changes what nobody may see.
func (b *bench) churn(ctx context.Context, relay server) error {
	before, err := process.Time(relay.process.PID())
	if err != nil {
		return err
	}
	if _, err := b.world.write(ctx, b.plan.Churn, b.world.otherObject); err != nil {
		return err
	}
	if err := settle(ctx, relay, b.plan.patience); err != nil {
		return err
	}
	now, err := process.Time(relay.process.PID())
	b.report.Relay.PerChange = milliseconds(now-before) / float64(b.plan.Churn)
	return err
}

// watch measures a server with all watchers, and returns them with their watches open.
func (b *bench) watch(ctx context.Context, s server, tokens []string, versions map[string]string) (f *fleet, m Watched, err error) {
	pid := s.process.PID()
	m = Watched{Server: s.name}
	if m.Before, err = process.ReadMemory(pid); err != nil {
		return nil, m, err
	}
	used, err := process.Time(pid)
	if err != nil {
		return nil, m, err
	}
	began := time.Now()
	f = b.world.newFleet(ctx, s, tokens, versions)
	synced, err := f.waitSynced(ctx, b.plan.patience)
	if err != nil {
		return f, m, fmt.Errorf("watching %s: %w", s.name, err)
	}
	m.Opened = milliseconds(latest(synced).Sub(began))
	if err := settle(ctx, s, b.plan.patience); err != nil {
		return f, m, err
	}
	now, err := process.Time(pid)
	if err != nil {
		return f, m, err
	}
	m.OpenedCPU = (now - used).Seconds()
	m.InitialBytes = float64(f.received()) / float64(len(tokens))
	if err := b.tell(ctx, s, f, &m); err != nil {
		return f, m, err
	}
	m.Refused, m.Broken = f.refused.Load(), f.broken.Load()
	m.After, err = process.ReadMemory(pid)
	return f, m, err
}

// tell writes, and waits until every watcher has heard of every write.
func (b *bench) tell(ctx context.Context, s server, f *fleet, m *Watched) error {
	received := f.received()
	used, err := process.Time(s.process.PID())
	if err != nil {
		return err
	}
	writes, err := b.world.write(ctx, b.plan.Writes, b.world.mappedObject)
	if err != nil {
		return err
	}
	want := len(writes) * len(f.watchers)
	_ = await(ctx, b.plan.patience, func() error { // those that are missing are counted
		if got := int(f.events.Load()); got < want {
			return fmt.Errorf("%d of %d events arrived", got, want)
		}
		return nil
	})
	now, err := process.Time(s.process.PID())
	if err != nil {
		return err
	}
	m.summarize(writes, f.delays(writes), want)
	m.EventBytes = float64(f.received()-received) / float64(want)
	m.EventCPU = 1e6 * (now - used).Seconds() / float64(want)
	return nil
}

// storm kills the relay under its watchers and starts it again.
func (b *bench) storm(ctx context.Context, s server, f *fleet) (m Storm, err error) {
	received, refused, broken := f.received(), f.refused.Load(), f.broken.Load()
	if err := s.process.Kill(); err != nil {
		return m, err
	}
	killed := time.Now()
	// All of them have noticed: each watch breaks once.
	if err := await(ctx, b.plan.patience, func() error {
		if n := f.broken.Load() - broken; n < int64(len(f.watchers)*len(kinds)) {
			return fmt.Errorf("%d watches broken", n)
		}
		return nil
	}); err != nil {
		return m, err
	}
	f.forget()
	if err := s.process.Restart(ctx); err != nil {
		return m, err
	}
	m.Ready = time.Since(killed).Seconds()
	synced, err := f.waitSynced(ctx, b.plan.patience)
	if err != nil {
		return m, fmt.Errorf("after the restart: %w", err)
	}
	m.summarize(killed, synced)
	m.Bytes = float64(f.received()-received) / float64(len(f.watchers))
	m.Refused, m.Broken = f.refused.Load()-refused, f.broken.Load()-broken
	if err := settle(ctx, s, b.plan.patience); err != nil {
		return m, err
	}
	used, err := process.Time(s.process.PID())
	if err != nil {
		return m, err
	}
	m.CPU = used.Seconds()
	m.Memory, err = process.ReadMemory(s.process.PID())
	return m, err
}

// settle waits until a server has done nearly nothing for a second, or for as long as patience goes.
func settle(ctx context.Context, s server, patience time.Duration) error {
	used := func() (time.Duration, error) { return process.Time(s.process.PID()) }
	return process.Settle(ctx, used, 5*process.Tick, patience)
}
