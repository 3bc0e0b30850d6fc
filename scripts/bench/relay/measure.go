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

// Relay is the cost of the relay without watchers.
type Relay struct {
	// Seconds is the time from the start until ready. CPU is the processor time until idle, which includes writing the status
	// of all Mappings.
	Seconds float64 `json:"seconds"`
	CPU     float64 `json:"cpu"`
	// Idle is the share of a core while nothing changes, in percent.
	Idle   float64        `json:"idle"`
	Memory process.Memory `json:"memory"`
	// PerChange is the processor time for one change of an EndpointSlice that is not mapped, in ms.
	PerChange float64 `json:"perChange"`
}

// Watched is the result for one server with all watchers. Times are in milliseconds.
type Watched struct {
	Server string `json:"server"`
	// Opened is the time until the last watcher was synced, and OpenedCPU the processor time for all of them.
	Opened    float64 `json:"opened"`
	OpenedCPU float64 `json:"openedCPU"`
	// Before and After are the server's memory without and with the watchers.
	Before process.Memory `json:"before"`
	After  process.Memory `json:"after"`
	// InitialBytes are the bytes that one watcher received until it was synced, EventBytes those for one change.
	InitialBytes float64 `json:"initialBytes"`
	EventBytes   float64 `json:"eventBytes"`
	// Written are the response times of the API server to the writes.
	Written []float64 `json:"written"`
	// Median, P99 and Last are the times from the request to the API server until the arrival of the event, over all writes
	// and watchers. Slowest is the median, over all writes, of the time to the last watcher.
	Median, P99, Last, Slowest float64
	// Missing is the number of events that did not arrive in time.
	Missing int `json:"missing"`
	// EventCPU is the processor time of one event for one watcher, in µs.
	EventCPU float64 `json:"eventCPU"`
	// Refused is the number of refused requests, and Broken that of connections that broke or failed to open.
	Refused int64 `json:"refused"`
	Broken  int64 `json:"broken"`
}

// perWatcher returns the memory for one watcher, in kB.
func (w Watched) perWatcher(watchers int) float64 {
	return 1000 * (w.After.RSS - w.Before.RSS) / float64(watchers)
}

// Storm is the result of killing and restarting the relay under its watchers. Seconds count from the kill.
type Storm struct {
	Ready  float64 `json:"ready"`
	Median float64 `json:"median"`
	P99    float64 `json:"p99"`
	Last   float64 `json:"last"`
	// Bytes are the bytes that one watcher received until it was synced again.
	Bytes   float64        `json:"bytes"`
	CPU     float64        `json:"cpu"`
	Memory  process.Memory `json:"memory"`
	Refused int64          `json:"refused"`
	Broken  int64          `json:"broken"`
}

// startRelay starts the relay with its default limits.
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

// churn changes EndpointSlices that are not mapped.
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

// tell writes, and waits until every watcher has received every write.
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
	_ = await(ctx, b.plan.patience, func() error { // missing events are counted
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

// storm kills the relay under its watchers and restarts it.
func (b *bench) storm(ctx context.Context, s server, f *fleet) (m Storm, err error) {
	received, refused, broken := f.received(), f.refused.Load(), f.broken.Load()
	if err := s.process.Kill(); err != nil {
		return m, err
	}
	killed := time.Now()
	// Wait until all watchers have noticed: each watch breaks once.
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

// settle waits until a server is nearly idle for a second, or until patience is over.
func settle(ctx context.Context, s server, patience time.Duration) error {
	used := func() (time.Duration, error) { return process.Time(s.process.PID()) }
	return process.Settle(ctx, used, 5*process.Tick, patience)
}
