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

// Turns is the number of turns for each path, the time after which no more start (three always run), and the duration of one.
type Turns struct {
	Pairs  int
	Time   time.Duration
	Limits load.Limits
}

// Targets are the sockets that the client connects to on each path.
type Targets struct{ Plain, Tracked, Mapped []netip.AddrPort }

// Compare runs one load on each path in turns. The first turn of each path is a warm-up.
func Compare(ctx context.Context, l *lab.Lab, put load.Load, family string, targets Targets, turns Turns) (figures.Measurement, error) {
	var m, warm figures.Measurement
	measure := func(clock, processor *[]float64, to []netip.AddrPort) error {
		if err := errors.Join(ctx.Err(), Forget(ctx, l, family)); err != nil {
			return err
		}
		t, err := put(l.Host(lab.Client), to, turns.Limits)
		if err == nil && t.Count == 0 {
			err = fmt.Errorf("no connection to %s succeeds", to[0])
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
