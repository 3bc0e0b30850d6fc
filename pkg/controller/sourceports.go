// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/smartnat/smartnat/pkg/calc"
	"github.com/smartnat/smartnat/pkg/finding"
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/loglimit"
)

// countInterval is the minimum time between two counts of source ports. A count reads every masqueraded connection, so counts
// take at most 1/countShare of the time.
const (
	countInterval = 10 * time.Second
	countShare    = 100
)

// PortUse summarizes the use of source ports for masquerading.
type PortUse struct {
	// Fullest is the share of source ports in use to the most used backend; 1 is all.
	Fullest float64
	// Short is the number of backends with hardly any free source port.
	Short int
}

// sourcePorts holds the results of counts. It is safe for concurrent use.
type sourcePorts struct {
	mu sync.Mutex
	// state is the State in effect, and short are the backends that run out of source ports.
	state *gateway.State
	short []gateway.SourcePorts
}

func (s *sourcePorts) apply(state gateway.State) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state = &state
}

func (s *sourcePorts) findings() []finding.Finding {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state == nil {
		return nil
	}
	return calc.ShortFindings(*s.state, s.short)
}

// update records a count and reports whether the set of short backends changed.
func (s *sourcePorts) update(count []gateway.SourcePorts) (use PortUse, changed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	short := calc.Short(*s.state, count, s.short)
	changed = !slices.Equal(short, s.short)
	s.short = short
	fullest := 0.0
	for _, c := range count {
		fullest = max(fullest, float64(c.InUse)/float64(c.Addresses*s.state.SourcePorts()))
	}
	return PortUse{Fullest: fullest, Short: len(short)}, changed
}

// inEffect returns the State in effect, or nil, and whether it masquerades.
func (s *sourcePorts) inEffect() (state *gateway.State, masquerades bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state, s.state != nil && (s.state.MasqueradeRemote || slices.ContainsFunc(s.state.Forwards, func(f *gateway.Forward) bool { return f.Masquerade }))
}

// countSourcePorts counts until ctx ends. It enqueues an apply when the set of short backends changes, to update status and
// log. It runs concurrently with the worker, which never waits for a count.
func (c *Controller) countSourcePorts(ctx context.Context) error {
	pause := countInterval
	var last loglimit.LastError
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait.Jitter(pause, resyncJitter)):
		}
		state, masquerades := c.ports.inEffect()
		if state == nil {
			continue
		}
		var count []gateway.SourcePorts
		var err error
		started := time.Now()
		if masquerades {
			count, err = c.CountSourcePorts(state.MasqueradeAddresses)
		}
		pause = max(countInterval, countShare*time.Since(started))
		if last.Changed(err) {
			c.Log.WithError(err).Warn("failed to count source ports, will retry")
		}
		if err != nil {
			continue
		}
		use, changed := c.ports.update(count)
		if c.PortsCounted != nil {
			c.PortsCounted(use)
		}
		if changed {
			c.enqueue(sourcePortsLow)
		}
	}
}
