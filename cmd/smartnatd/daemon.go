// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/smartnat/smartnat/pkg/calc"
	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/controller"
)

// runner is what one config makes of this host: a controller.
type runner interface {
	Run(ctx context.Context, objects controller.Source) error
	Enqueue()
	Queued() int
}

// hooks are how a runner tells what becomes of it, both from its worker.
type hooks struct {
	// ready is called once, when every rule is in effect.
	ready func()
	// applied is called after each try to bring the kernel to what is wanted.
	applied func(controller.Outcome)
	// turned is called after each turn of the worker, every few seconds at least.
	turned func()
}

// daemon runs a runner, and another one in its place with each new config. What is programmed stays meanwhile, and the new
// one writes but what differs.
type daemon struct {
	log     *logrus.Logger
	manager *manager
	hangup  <-chan os.Signal
	// load reads the config again and checks it.
	load       func() (config.Config, error)
	newObjects func(cfg config.Config, known *calc.Snapshot) (*objects, error)
	newRunner  func(config.Config, hooks) (runner, error)
	// listen serves metrics and probes at an address.
	listen func(address string)
	// account is of all generations, current of the one that runs.
	account account
	current atomic.Pointer[generation]
}

// generation is all that there is of one config.
type generation struct {
	cfg     config.Config
	objects *objects
	runner  runner
	// ready is set once every rule is in effect.
	ready atomic.Bool
	// announced is set once systemd was told READY=1: in effect or, after startTimeout, degraded.
	announced atomic.Bool
}

func (d *daemon) run(ctx context.Context, cfg config.Config) error {
	g, err := d.prepare(cfg, nil)
	if err != nil {
		return err
	}
	d.listen(cfg.Metrics.Address)
	defer d.listen("")
	if cfg.StartTimeout > config.Default().StartTimeout { // which the unit allows for
		d.manager.extend(cfg.StartTimeout)
	}
	g.objects.start(context.WithoutCancel(ctx))
	for {
		next, err := d.runOne(ctx, g)
		if next == nil {
			g.objects.stop()
			return err
		}
		if next.objects != g.objects {
			g.objects.stop()
		}
		g = next
	}
}

// runOne runs a generation until it ends, or another one is there to take over.
func (d *daemon) runOne(ctx context.Context, g *generation) (*generation, error) {
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	d.current.Store(g)
	enqueue := g.runner.Enqueue
	g.objects.enqueue.Store(&enqueue)
	ended := make(chan error, 1)
	go func() { ended <- g.runner.Run(running, g.objects) }()
	go d.waitForObjects(running, g)
	bound := time.NewTimer(g.cfg.StartTimeout)
	defer bound.Stop()
	for {
		select {
		case <-bound.C:
			d.endStart(g)
		case err := <-ended:
			return nil, err
		case <-ctx.Done():
			d.manager.stopping()
			stop()
			return nil, <-ended
		case <-d.hangup:
			next := d.reload(ctx, g)
			if next == nil {
				continue
			}
			stop()
			if err := <-ended; err != nil {
				return nil, err
			}
			return next, nil
		}
	}
}

// endStart has systemd go on where not everything is in effect in time.
func (d *daemon) endStart(g *generation) {
	if g.ready.Load() {
		return
	}
	d.log.WithField("missing", strings.Join(d.account.missing(g.objects, false), "; ")).
		Warn("starting degraded, not everything is in effect")
	d.announce(g)
}

// announce tells systemd once that the start, or the reload, is over.
func (d *daemon) announce(g *generation) {
	first := !g.announced.Swap(true)
	d.manager.say(d.describe(g))
	if first {
		d.manager.ready()
	}
}

// waitForObjects tells systemd how it stands while the worker has nothing to do yet, for as long as that takes.
func (d *daemon) waitForObjects(ctx context.Context, g *generation) {
	looks := time.NewTicker(d.manager.interval())
	defer looks.Stop()
	for !g.objects.HasSynced() {
		d.manager.alive()
		d.manager.say(d.describe(g))
		select {
		case <-ctx.Done():
			return
		case <-looks.C:
		}
	}
}

// reload returns what the config makes now; nothing when the running generation is to go on.
func (d *daemon) reload(ctx context.Context, running *generation) *generation {
	if running.announced.Load() {
		d.manager.reloading()
	}
	next, err := d.next(running)
	if err != nil {
		oneLine := errors.New(strings.ReplaceAll(err.Error(), "\n", "; "))
		d.log.WithError(oneLine).Error("not reloaded: the config from before stays in effect until this is right")
		d.manager.remark("the config has changed and is wrong, the one from before is used")
	} else {
		d.manager.remark("")
	}
	if next == nil {
		if running.announced.Load() {
			d.manager.ready()
		}
		return nil
	}
	if next.objects != running.objects {
		next.objects.start(context.WithoutCancel(ctx))
	}
	d.log.Info("reloading: changing over to the new config")
	return next
}

// next prepares what the config says now, if that is anything new.
func (d *daemon) next(running *generation) (*generation, error) {
	cfg, err := d.load()
	if err != nil {
		return nil, err
	}
	cfg, kept := config.Reload(running.cfg, cfg)
	if len(kept) > 0 {
		d.log.WithField("keys", strings.Join(kept, ", ")).
			Warn("these keys stay as they were, for they name what is programmed: run smartnatd cleanup under the old config, then start under the new one")
	}
	if reflect.DeepEqual(cfg, running.cfg) {
		d.log.Info("reloaded: nothing to change over to")
		return nil, nil
	}
	next, err := d.prepare(cfg, running)
	if err != nil {
		return nil, err
	}
	d.listen(cfg.Metrics.Address)
	return next, configureLogger(d.log, cfg.Log)
}

// prepare constructs a generation and starts nothing. It goes on with the objects of the running one where it can.
func (d *daemon) prepare(cfg config.Config, running *generation) (*generation, error) {
	g := &generation{cfg: cfg}
	var err error
	switch {
	case running != nil && reflect.DeepEqual(cfg.Source, running.cfg.Source) && cfg.StateDir == running.cfg.StateDir:
		g.objects = running.objects
	default:
		var known *calc.Snapshot
		if running != nil && running.objects.HasSynced() {
			snapshot := running.objects.Snapshot()
			known = &snapshot
		}
		if g.objects, err = d.newObjects(cfg, known); err != nil {
			return nil, err
		}
	}
	g.runner, err = d.newRunner(cfg, hooks{
		ready: func() {
			g.ready.Store(true)
			d.account.ready()
			if missing := d.account.missing(g.objects, true); len(missing) > 0 {
				d.log.WithField("missing", strings.Join(missing, "; ")).Warn("in effect, degraded")
			} else {
				d.log.Info("in effect")
			}
			d.announce(g)
		},
		applied: func(o controller.Outcome) { d.account.applied(o, time.Now()) },
		turned: func() {
			d.account.turned(time.Now())
			d.manager.alive()
			d.manager.say(d.describe(g))
		},
	})
	if err != nil {
		return nil, fmt.Errorf("preparing: %w", err)
	}
	return g, nil
}
