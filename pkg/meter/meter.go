// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package meter

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/smartnat/smartnat/pkg/budget"
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/loglimit"
	"github.com/smartnat/smartnat/pkg/traffic"
)

// Connections are the connections that carry our mark.
type Connections interface {
	// Watch passes every connection that ends to ended, and calls lost whenever some ended unseen. It returns nil when ctx ends.
	Watch(ctx context.Context, ended func(traffic.Flow), lost func()) error
	// Drain makes Watch pass all connections that ended until now, before it returns.
	Drain() error
	// Open passes all connections that are open.
	Open(each func(traffic.Flow)) error
}

// Refusals are the counters of the rules that refuse packets.
type Refusals interface {
	// Refusals returns the counters. whole is not set if some may be missing.
	Refusals(ctx context.Context) (refusals []traffic.Refusal, whole bool, err error)
}

const (
	// minInterval is the shortest time between two readings.
	minInterval = 5 * time.Second
	// share bounds the time that readings take, to one hundredth.
	share = 100
	// retryWatch is the time until a Watch that failed starts again.
	retryWatch = 10 * time.Second
)

// Reading are the totals at some time.
type Reading struct {
	// At is when the kernel was read.
	At time.Time
	// Entries are sorted by Frontend. They belong to all readers.
	Entries []traffic.Entry
	// Losses counts how often connections ended unseen.
	Losses uint64
	// Refusals is set if the Entries include refused packets: not every data plane counts them.
	Refusals bool
}

// Meter keeps totals. It is safe for concurrent use.
type Meter struct {
	log logrus.FieldLogger

	// mu guards what the end of a connection changes.
	mu     sync.Mutex
	totals *traffic.Accumulator
	losses uint64
	// connections and refusals are nil until they are set.
	connections Connections
	refusals    Refusals
	plane       string

	// reading is held while a caller reads.
	reading sync.Mutex
	budget  budget.Budget
	last    Reading
	failed  loglimit.LastError
}

// New returns a Meter that reads nothing yet. The Budget bounds its readings.
func New(log logrus.FieldLogger, readings budget.Budget) *Meter {
	return &Meter{log: log, totals: traffic.NewAccumulator(), budget: readings}
}

// Budget is that of readings on behalf of scrapes.
func Budget() budget.Budget { return budget.New(share, 0) }

// Follow makes the Meter count for the Forwards of a State.
func (m *Meter) Follow(state gateway.State) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.totals.Follow(state.Forwards, state.Absent.Forwards)
}

// ReadRefusals makes the Meter read these counters. plane names the data plane; another one has counters of its own.
func (m *Meter) ReadRefusals(plane string, refusals Refusals) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if plane != m.plane {
		m.totals.Refuse(nil, true)
	}
	m.plane, m.refusals = plane, refusals
}

// Run follows connections until ctx ends. If that fails, it logs the cause once and tries again. It must not run twice at a time.
func (m *Meter) Run(ctx context.Context, connections Connections) {
	if m.start(connections) {
		m.lose()
	}
	var failed loglimit.LastError
	for {
		err := connections.Watch(ctx, m.end, m.lose)
		if ctx.Err() != nil {
			return
		}
		if failed.Changed(err) {
			m.log.WithError(err).Warn("cannot count ended connections, retrying")
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(retryWatch):
		}
		m.lose()
	}
}

// start reports whether the Meter followed connections before, and not since.
func (m *Meter) start(connections Connections) (again bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	again = m.connections != nil
	m.connections = connections
	return again
}

func (m *Meter) end(f traffic.Flow) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.totals.End(f)
}

func (m *Meter) lose() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.losses++
	m.totals.Lost()
}

// Read returns the totals. It reads the kernel unless that was done a moment ago, or took too long to be repeated yet; then the last
// totals are as good. A failure is logged, and changes nothing.
func (m *Meter) Read(ctx context.Context) Reading {
	m.reading.Lock()
	defer m.reading.Unlock()
	began := time.Now()
	if !m.budget.Allows(began) {
		return m.last
	}
	if err := m.read(ctx); m.failed.Changed(err) {
		m.log.WithError(err).Warn("cannot read traffic of Mappings, retrying")
	}
	now := time.Now()
	m.budget.Spend(now, max(now.Sub(began), minInterval/share))
	m.mu.Lock()
	defer m.mu.Unlock()
	m.last = Reading{At: began, Entries: m.totals.Entries(), Losses: m.losses, Refusals: m.refusals != nil}
	return m.last
}

func (m *Meter) read(ctx context.Context) error {
	m.mu.Lock()
	connections, refusals := m.connections, m.refusals
	m.mu.Unlock()
	var errs []error
	if refusals != nil {
		counters, whole, err := refusals.Refusals(ctx)
		if err == nil {
			m.mu.Lock()
			m.totals.Refuse(counters, whole)
			m.mu.Unlock()
		}
		errs = append(errs, err)
	}
	if connections != nil {
		errs = append(errs, m.readOpen(connections))
	}
	return errors.Join(errs...)
}

func (m *Meter) readOpen(connections Connections) error {
	m.mu.Lock()
	m.totals.Begin()
	m.mu.Unlock()
	err := connections.Open(func(f traffic.Flow) {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.totals.Open(f)
	})
	if err == nil {
		err = connections.Drain()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err != nil {
		m.totals.Abandon()
		return err
	}
	m.totals.Finish()
	return nil
}
