// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"

	"github.com/smartnat/smartnat/pkg/calc"
	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/dataplane"
	"github.com/smartnat/smartnat/pkg/gateway"
)

// Retries after a failed apply back off between these.
const (
	minBackoff = 500 * time.Millisecond
	maxBackoff = 30 * time.Second
)

// resyncJitter spreads the resyncs of gateways that were started together.
const resyncJitter = 0.1

// The kernel is one object: whatever changed, the whole of it is compared.
const kernelKey = "kernel"

// Source is where objects come from.
type Source interface {
	// Run blocks until ctx ends, or until it can never work.
	Run(ctx context.Context) error
	// HasSynced is true once the Snapshot is whole.
	HasSynced() bool
	Snapshot() calc.Snapshot
}

// Host is the machine that we are on.
type Host interface {
	Observe() (gateway.Host, error)
	// Watch calls changed whenever what Observe returns may have changed, and blocks until ctx ends.
	Watch(ctx context.Context, changed func()) error
}

// Dataplane brings the kernel to a State. It is called by the worker alone.
type Dataplane interface {
	Apply(ctx context.Context, state gateway.State) (dataplane.Result, error)
	// Invalidate makes the next Apply read the kernel rather than trust what was written.
	Invalidate()
}

// Options are what a Controller is made of.
type Options struct {
	Config    config.Config
	Host      Host
	Dataplane Dataplane
	Log       logrus.FieldLogger
	// Ready is called once, after the first apply that left nothing undone.
	Ready func()
}

// Controller owns the queue and its worker.
type Controller struct {
	Options
	source Source
	queue  workqueue.TypedRateLimitingInterface[string]
	// distrust is set when the kernel may not hold what was written last.
	distrust atomic.Bool
	findings findingLog
	ready    bool
}

// New returns a Controller that does nothing until Run. Its Enqueue is what the source is to call on changes.
func New(options Options) *Controller {
	return &Controller{
		Options:  options,
		queue:    workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[string](minBackoff, maxBackoff)),
		findings: findingLog{log: options.Log},
	}
}

// Enqueue asks for an apply. Calls while one is waiting are one; a call while one is running leads to one more.
func (c *Controller) Enqueue() { c.queue.Add(kernelKey) }

// Run runs source, host watch, resync and worker until ctx ends or one of them can never work. Nothing is written before the
// source has synced, and nothing is undone at the end.
func (c *Controller) Run(ctx context.Context, source Source) error {
	c.source = source
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return source.Run(ctx) })
	group.Go(func() error { return c.Host.Watch(ctx, c.Enqueue) })
	group.Go(func() error {
		<-ctx.Done()
		c.queue.ShutDown()
		return nil
	})
	group.Go(func() error {
		if !cache.WaitForCacheSync(ctx.Done(), source.HasSynced) {
			return nil
		}
		c.Enqueue()
		group.Go(func() error { return c.resync(ctx) })
		for c.processNextItem(ctx) {
		}
		return nil
	})
	if err := group.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// resync has the kernel read and compared from time to time, for the hands that no event tells of.
func (c *Controller) resync(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait.Jitter(c.Config.Resync, resyncJitter)):
			c.distrust.Store(true)
			c.Enqueue()
		}
	}
}

func (c *Controller) processNextItem(ctx context.Context) bool {
	key, shutdown := c.queue.Get()
	if shutdown {
		return false
	}
	defer c.queue.Done(key)
	err := c.sync(ctx)
	switch {
	case ctx.Err() != nil:
	case err == nil:
		c.queue.Forget(key)
	default:
		// Whatever failed may have left the kernel halfway.
		c.distrust.Store(true)
		c.Log.WithError(err).WithField("failures", c.queue.NumRequeues(key)+1).Error("not everything could be programmed, will be tried again")
		c.queue.AddRateLimited(key)
	}
	return true
}

func (c *Controller) sync(ctx context.Context) error {
	host, err := c.Host.Observe()
	if err != nil {
		return fmt.Errorf("observing the host: %w", err)
	}
	state, findings := calc.Calculate(c.source.Snapshot(), host, c.Config)
	c.findings.report(findings)

	if c.distrust.Swap(false) {
		c.Dataplane.Invalidate()
	}
	started := time.Now()
	result, err := c.Dataplane.Apply(ctx, state)
	for _, missing := range result.Missing {
		c.Log.WithField("missing", missing).Warn("somebody else changed what was programmed: repaired")
	}
	if !result.Empty() {
		c.Log.WithFields(logrus.Fields{
			"changes":  result.String(),
			"took":     time.Since(started).Round(time.Millisecond),
			"forwards": len(state.Forwards),
		}).Info("programmed")
	}
	if err == nil && !c.ready {
		c.ready = true
		c.Ready()
	}
	return err
}
