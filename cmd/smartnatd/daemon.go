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

	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/controller"
	"github.com/smartnat/smartnat/pkg/objects"
)

// runner programs this host for one config: a controller.
type runner interface {
	Run(ctx context.Context, objects controller.Source) error
	Enqueue()
	Queued() int
}

// hooks are the callbacks of a runner, all called by its worker.
type hooks struct {
	// ready is called once, when every rule is in effect.
	ready func()
	// applied is called after each attempt to apply the wanted state to the kernel.
	applied func(controller.Outcome)
	// turned is called after each turn of the worker, every few seconds at least.
	turned func()
}

// daemon runs one runner at a time and replaces it for each new config. The kernel state stays meanwhile, and the new runner
// writes only the differences.
type daemon struct {
	log     *logrus.Logger
	manager *manager
	hangup  <-chan os.Signal
	// load reads the config again and checks it.
	load       func() (config.Config, error)
	newObjects func(cfg config.Config, known *objects.Snapshot) (*objectSource, error)
	newRunner  func(config.Config, hooks) (runner, error)
	// listen serves metrics and probes at an address.
	listen func(address string)
	// account covers all generations; current is the running one.
	account account
	current atomic.Pointer[generation]
}

// generation is everything that belongs to one config.
type generation struct {
	cfg     config.Config
	objects *objectSource
	runner  runner
	// ready is set once every rule is in effect.
	ready atomic.Bool
	// announced is set once systemd got READY=1: after everything is in effect, or degraded after startTimeout.
	announced atomic.Bool
}

func (d *daemon) run(ctx context.Context, cfg config.Config) error {
	g, err := d.prepare(cfg, nil)
	if err != nil {
		return err
	}
	d.listen(cfg.Metrics.Address)
	defer d.listen("")
	if cfg.StartTimeout > config.Default().StartTimeout { // up to the default, the unit's own timeout suffices
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

// runOne runs a generation until it ends or a new one takes over.
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

// endStart announces a degraded start if not everything is in effect in time.
func (d *daemon) endStart(g *generation) {
	if g.ready.Load() {
		return
	}
	d.log.WithField("missing", strings.Join(d.account.missing(g.objects, false), "; ")).
		Warn("starting degraded, not everything is in effect")
	d.announce(g)
}

// announce sends systemd the status and, once, READY=1 for the start or reload.
func (d *daemon) announce(g *generation) {
	first := !g.announced.Swap(true)
	d.manager.say(d.describe(g))
	if first {
		d.manager.ready()
	}
}

// waitForObjects sends systemd the status and the watchdog while the worker has nothing to do yet.
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

// reload returns the generation of the current config, or nil if the running one stays.
func (d *daemon) reload(ctx context.Context, running *generation) *generation {
	if running.announced.Load() {
		d.manager.reloading()
	}
	next, err := d.next(running)
	if err != nil {
		oneLine := errors.New(strings.ReplaceAll(err.Error(), "\n", "; "))
		d.log.WithError(oneLine).Error("config not reloaded, the previous one stays in effect")
		d.manager.remark("cannot apply the new config, the previous one stays in effect")
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
	d.log.Info("reloading the config")
	return next
}

// next reads the config and prepares a generation if it has changed.
func (d *daemon) next(running *generation) (*generation, error) {
	cfg, err := d.load()
	if err != nil {
		return nil, err
	}
	cfg, kept := config.Reload(running.cfg, cfg)
	if len(kept) > 0 {
		d.log.WithField("keys", strings.Join(kept, ", ")).
			Warn("cannot reload keys: run smartnatd cleanup, then change them")
	}
	if reflect.DeepEqual(cfg, running.cfg) {
		d.log.Info("config is unchanged")
		return nil, nil
	}
	next, err := d.prepare(cfg, running)
	if err != nil {
		return nil, err
	}
	d.listen(cfg.Metrics.Address)
	return next, configureLogger(d.log, cfg.Log)
}

// prepare constructs a generation without starting it. It reuses the objects of the running one if possible.
func (d *daemon) prepare(cfg config.Config, running *generation) (*generation, error) {
	g := &generation{cfg: cfg}
	var err error
	switch {
	case running != nil && reflect.DeepEqual(cfg.Source, running.cfg.Source) && cfg.StateDir == running.cfg.StateDir:
		g.objects = running.objects
	default:
		var known *objects.Snapshot
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
