// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/controller"
	"github.com/smartnat/smartnat/pkg/finding"
)

// generation is everything that belongs to one config.
type generation struct {
	cfg       config.Config
	objects   *objectSource
	runner    Runner
	reporters []Reporter
	// report is the last one, or nil before the first.
	report atomic.Pointer[finding.Report]
	// ready is set once every rule is in effect.
	ready atomic.Bool
	// announced is set once systemd got READY=1: after everything is in effect, or degraded after startTimeout.
	announced atomic.Bool
}

// prepare constructs a generation without starting it. It reuses the objects of the running one if possible.
func (d *Daemon) prepare(cfg config.Config, running *generation) (*generation, error) {
	g := &generation{cfg: cfg}
	var err error
	if running != nil && reflect.DeepEqual(cfg.Source, running.cfg.Source) && cfg.StateDir == running.cfg.StateDir {
		g.objects = running.objects
	} else if g.objects, err = d.newObjects(cfg, running); err != nil {
		return nil, err
	}
	if g.runner, err = d.NewRunner(cfg, d.hooks(g)); err != nil {
		return nil, fmt.Errorf("preparing: %w", err)
	}
	if g.reporters, err = d.NewReporters(cfg); err != nil {
		return nil, fmt.Errorf("preparing: %w", err)
	}
	return g, nil
}

func (d *Daemon) hooks(g *generation) Hooks {
	return Hooks{
		Ready: func() {
			g.ready.Store(true)
			d.tracker.ready()
			if missing := d.tracker.missing(g.objects, true); len(missing) > 0 {
				d.Log.WithField("missing", strings.Join(missing, "; ")).Warn("in effect, degraded")
			} else {
				d.Log.Info("in effect")
			}
			d.announce(g)
		},
		Applied: func(o controller.Outcome) {
			g.reportOutcome(o)
			d.tracker.applied(o, time.Now())
		},
		ItemProcessed: func() {
			d.tracker.itemProcessed(time.Now())
			d.Systemd.Heartbeat()
			d.Systemd.SetStatus(d.statusLine(g))
		},
	}
}

func (g *generation) reportOutcome(o controller.Outcome) {
	if o.Report == nil {
		return
	}
	g.report.Store(o.Report)
	for _, r := range g.reporters {
		r.Report(*o.Report)
	}
}

// run runs the Runner until ctx ends, and the Reporters as long.
func (g *generation) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var reporting sync.WaitGroup
	for _, r := range g.reporters {
		reporting.Go(func() { r.Run(ctx) })
	}
	err := g.runner.Run(ctx, g.objects)
	cancel()
	reporting.Wait()
	return err
}
