// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package ways

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/smartnat/smartnat/scripts/bench/figures"
	"github.com/smartnat/smartnat/scripts/bench/load"
	"github.com/smartnat/smartnat/scripts/lab"
)

// Turns say how often each way has its turn, after how long there are no more (three are always had), and how long one is.
type Turns struct {
	Pairs  int
	Time   time.Duration
	Limits load.Limits
}

// Targets are the sockets that the client connects to, by each way.
type Targets struct{ Plain, Tracked, Mapped []netip.AddrPort }

// Compare puts one load on each way in turn. The first turn of each is for warming up.
func Compare(ctx context.Context, l *lab.Lab, put load.Load, family string, targets Targets, turns Turns) (figures.Measurement, error) {
	var m, warm figures.Measurement
	measure := func(clock, processor *[]float64, to []netip.AddrPort) error {
		if err := errors.Join(ctx.Err(), Forget(ctx, l, family)); err != nil {
			return err
		}
		t, err := put(l.Host(lab.Client), to, turns.Limits)
		if err == nil && t.Count == 0 {
			err = fmt.Errorf("nothing gets through to %s", to[0])
		}
		m.Failed += t.Failed
		*clock = append(*clock, float64(t.Count)/t.Clock.Seconds())
		*processor = append(*processor, float64(t.Count)/t.Processor.Seconds())
		return err
	}
	routed := func(m *figures.Measurement) error {
		return errors.Join(
			measure(&m.Clock.Plain, &m.Processor.Plain, targets.Plain),
			measure(&m.Clock.Tracked, &m.Processor.Tracked, targets.Tracked))
	}
	mapped := func(m *figures.Measurement) error {
		return measure(&m.Clock.Mapped, &m.Processor.Mapped, targets.Mapped)
	}
	if err := errors.Join(mapped(&warm), routed(&warm), routed(&m)); err != nil {
		return m, err
	}
	started := time.Now()
	for i := 0; i < turns.Pairs && (i < 3 || time.Since(started) < turns.Time); i++ {
		if err := errors.Join(mapped(&m), routed(&m)); err != nil {
			return m, err
		}
	}
	return m, nil
}
