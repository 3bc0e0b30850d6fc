// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"errors"
	"os"
	"reflect"
	"strings"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/controller"
	"github.com/smartnat/smartnat/pkg/dataplane"
	"github.com/smartnat/smartnat/pkg/finding"
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/logging"
	"github.com/smartnat/smartnat/pkg/packet"
	"github.com/smartnat/smartnat/pkg/source"
	"github.com/smartnat/smartnat/pkg/systemd"
)

// Runner programs this host for one config: a controller.
type Runner interface {
	// Run blocks until ctx ends, or returns an error if it can never work. It must not run objects.
	Run(ctx context.Context, objects controller.Source) error
	// Enqueue requests an apply because objects changed.
	Enqueue()
	// Queued returns the length of the queue.
	Queued() int
	// Tracer returns a model of what the rules that are now in the kernel do to packets of a family.
	Tracer(ctx context.Context, family gateway.Family) (packet.Tracer, error)
	// Plan compares the kernel with a State and writes nothing.
	Plan(ctx context.Context, state gateway.State) (dataplane.Plan, error)
}

// Hooks are the callbacks of a Runner, all called by its worker.
type Hooks struct {
	// Ready is called once, when every rule is in effect.
	Ready func()
	// Applied is called after each attempt to apply the wanted state to the kernel.
	Applied func(controller.Outcome)
	// ItemProcessed is called after each item of the worker, every few seconds at least.
	ItemProcessed func()
}

// Reporter passes results on, for example to the status of Mappings. Its failures do not affect the Runner.
type Reporter interface {
	// Report must not block.
	Report(finding.Report)
	// Run blocks until ctx ends.
	Run(ctx context.Context)
}

// Options are the surroundings of a Daemon. All of them are required.
type Options struct {
	Log     *logrus.Logger
	Systemd *systemd.Notifier
	// Reload requests a reload of the config: SIGHUP.
	Reload <-chan os.Signal
	// Load reads the config again and checks it.
	Load func() (config.Config, error)
	// NewSource returns the Source of a config, which calls changed as source.New says. If restore is false, newer objects than
	// saved ones are known.
	NewSource func(cfg config.Config, restore bool, changed func()) (source.Source, error)
	// NewRunner returns the Runner of a config.
	NewRunner func(config.Config, Hooks) (Runner, error)
	// NewReporters returns the Reporters of a config.
	NewReporters func(config.Config) ([]Reporter, error)
	// Listen serves metrics and probes at an address instead of the previous one; "" means nowhere.
	Listen func(address string)
	// CredentialEnds returns when the client certificate or token for a source expires, or zero.
	CredentialEnds func(config.Source) time.Time
}

// Daemon runs one generation at a time and replaces it for each new config. The kernel state stays meanwhile, and the new Runner
// writes only the differences.
type Daemon struct {
	Options
	// tracker covers all generations; current is the running one.
	tracker statusTracker
	current atomic.Pointer[generation]
}

// New returns a Daemon that does nothing until Run.
func New(options Options) *Daemon { return &Daemon{Options: options} }

// Run runs the daemon until ctx ends, or returns an error if cfg cannot be put into effect or a Runner fails for good. It leaves
// the kernel state as it is.
func (d *Daemon) Run(ctx context.Context, cfg config.Config) error {
	g, err := d.prepare(cfg, nil)
	if err != nil {
		return err
	}
	d.Listen(cfg.Metrics.Address)
	defer d.Listen("")
	if cfg.StartTimeout > config.Default().StartTimeout { // up to the default, the unit's own timeout suffices
		d.Systemd.ExtendTimeout(cfg.StartTimeout)
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
func (d *Daemon) runOne(ctx context.Context, g *generation) (*generation, error) {
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	d.current.Store(g)
	enqueue := g.runner.Enqueue
	g.objects.enqueue.Store(&enqueue)
	ended := make(chan error, 1)
	go func() { ended <- g.run(running) }()
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
			d.Systemd.Stopping()
			stop()
			return nil, <-ended
		case <-d.Reload:
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
func (d *Daemon) endStart(g *generation) {
	if g.ready.Load() {
		return
	}
	d.Log.WithField("missing", strings.Join(d.tracker.missing(g.objects, false), "; ")).
		Warn("starting degraded, not everything is in effect")
	d.announce(g)
}

// announce sends systemd the status and, once, READY=1 for the start or reload.
func (d *Daemon) announce(g *generation) {
	first := !g.announced.Swap(true)
	d.Systemd.SetStatus(d.statusLine(g))
	if first {
		d.Systemd.Ready()
	}
}

// waitForObjects sends systemd the status and the watchdog while the worker has nothing to do yet.
func (d *Daemon) waitForObjects(ctx context.Context, g *generation) {
	ticker := time.NewTicker(d.Systemd.Interval())
	defer ticker.Stop()
	for !g.objects.HasSynced() {
		d.Systemd.Heartbeat()
		d.Systemd.SetStatus(d.statusLine(g))
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// reload returns the generation of the current config, or nil if the running one stays.
func (d *Daemon) reload(ctx context.Context, running *generation) *generation {
	if running.announced.Load() {
		d.Systemd.Reloading()
	}
	next, err := d.next(running)
	if err != nil {
		oneLine := errors.New(strings.ReplaceAll(err.Error(), "\n", "; "))
		d.Log.WithError(oneLine).Error("config not reloaded, the previous one stays in effect")
		d.Systemd.SetNote("cannot apply the new config, the previous one stays in effect")
	} else {
		d.Systemd.SetNote("")
	}
	if next == nil {
		if running.announced.Load() {
			d.Systemd.Ready()
		}
		return nil
	}
	d.Listen(next.cfg.Metrics.Address)
	if next.objects != running.objects {
		next.objects.start(context.WithoutCancel(ctx))
	}
	d.Log.Info("reloading the config")
	return next
}

// next reads the config and prepares a generation if it has changed. After an error, everything is as before.
func (d *Daemon) next(running *generation) (*generation, error) {
	cfg, err := d.Load()
	if err != nil {
		return nil, err
	}
	cfg, kept := config.Reload(running.cfg, cfg)
	if len(kept) > 0 {
		d.Log.WithField("keys", strings.Join(kept, ", ")).
			Warn("cannot reload keys: run smartnatd cleanup, then change them")
	}
	if reflect.DeepEqual(cfg, running.cfg) {
		d.Log.Info("config is unchanged")
		return nil, nil
	}
	next, err := d.prepare(cfg, running)
	if err != nil {
		return nil, err
	}
	if err := logging.Configure(d.Log, logging.Options(cfg.Log)); err != nil {
		return nil, err
	}
	return next, nil
}
