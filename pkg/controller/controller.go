// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/util/workqueue"

	"github.com/smartnat/smartnat/pkg/calc"
	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/dataplane"
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/quarantine"
	"github.com/smartnat/smartnat/pkg/status"
)

// Retries after a failed apply back off between these. What made it fail may end without a word, and every change that is tried
// meanwhile is another failure.
const (
	minBackoff = 500 * time.Millisecond
	maxBackoff = 5 * time.Second
)

// resyncJitter spreads the resyncs of gateways that were started together.
const resyncJitter = 0.1

// checkInterval is how often a look is taken whether somebody else changed what was programmed. It costs microseconds.
const checkInterval = 3 * time.Second

// The kernel is one object: whatever changed, the whole of it is compared.
const kernelKey = "kernel"

// Source is where objects come from.
type Source interface {
	// Run blocks until ctx ends, or until it can never work.
	Run(ctx context.Context) error
	// HasSynced is true once the Snapshot is whole, of which Enqueue is told.
	HasSynced() bool
	Snapshot() calc.Snapshot
}

// Host is the machine that we are on.
type Host interface {
	Observe() (gateway.Host, error)
	// Listeners returns that part of it which no event tells of, at little cost.
	Listeners() ([]gateway.Listener, error)
	// Watch calls changed whenever what Observe returns may have changed, and blocks until ctx ends.
	Watch(ctx context.Context, changed func()) error
}

// Dataplane brings the kernel to a State. It is called by the worker alone.
type Dataplane interface {
	quarantine.Dataplane
	// Guard puts up the boundary and takes nothing away. It is for the time before the first Apply.
	Guard(ctx context.Context, state gateway.State) (dataplane.Result, error)
	// HostChanged makes the next Apply read routes, rules of policy routing and parameters.
	HostChanged()
	// Watch calls changed when it is time for a Check, until ctx ends or it can watch no longer.
	Watch(ctx context.Context, changed func()) error
	// Check looks at little cost whether somebody else wrote, and reports whether the next Apply is going to see to it.
	Check() (bool, error)
	// Verify makes the next Apply find out for sure.
	Verify()
}

// Options are what a Controller is made of.
type Options struct {
	Config    config.Config
	Host      Host
	Dataplane Dataplane
	Log       logrus.FieldLogger
	// Ready is called once, when every rule was found to be in the kernel. A route or a parameter that fails does not delay it.
	Ready func()
	// Applied, where it is set, is told what came of each try to bring the kernel to what is wanted. It must not wait for anything.
	Applied func(Outcome)
	// Turned, where it is set, is called after each turn of the worker, which comes every few seconds at least.
	Turned func()
}

// Outcome is what came of a try to bring the kernel to what is wanted.
type Outcome struct {
	// Facts are what it was made of, nil where the host could not be observed: then nothing else was tried.
	Facts *status.Facts
	// Result is what was written.
	Result dataplane.Result
	// Took is how long all of it took.
	Took time.Duration
	// Err is why not all of it could be done.
	Err error
}

// Controller owns the queue and its worker.
type Controller struct {
	Options
	source     Source
	queue      workqueue.TypedInterface[string]
	backoff    workqueue.TypedRateLimiter[string]
	pending    pending
	calculator *calc.Calculator
	findings   findingLog
	quarantine *quarantine.Quarantine
	ready      bool
	// guarded is what the boundary was put up for before the first apply, nil where it is not known to be up.
	guarded *gateway.State
	// These are what the last apply was made of, and stand until something tells that they may be others.
	host     gateway.Host
	state    gateway.State
	snapshot calc.Snapshot
	found    []calc.Finding
	// reported is what was in effect when something was programmed last.
	reported gateway.State
	// owed is what an apply that failed was for; retry is when it is tried again.
	owed  reason
	retry *time.Timer
	// blind is why the last check could not see.
	blind string
}

// New returns a Controller that does nothing until Run. Its Enqueue is what the source is to call on changes.
func New(options Options) *Controller {
	return &Controller{
		Options:    options,
		queue:      workqueue.NewTyped[string](),
		backoff:    workqueue.NewTypedItemExponentialFailureRateLimiter[string](minBackoff, maxBackoff),
		calculator: calc.NewCalculator(options.Config),
		findings:   findingLog{log: options.Log},
		quarantine: quarantine.New(options.Dataplane),
	}
}

// Enqueue says that objects changed, and asks for an apply. Calls while one is waiting are one; a call while one is running
// leads to one more.
func (c *Controller) Enqueue() { c.enqueue(objects) }

// Queued is how much waits for the worker: 0 or 1, as all that happened is one thing to do.
func (c *Controller) Queued() int { return c.queue.Len() }

func (c *Controller) enqueue(r reason) {
	c.pending.add(r, time.Now())
	c.queue.Add(kernelKey)
}

// Run runs source, host watch, checks, resync and worker until ctx ends or one of them can never work. Nothing but the
// boundary is written before the source has synced, and nothing is undone at the end.
func (c *Controller) Run(ctx context.Context, source Source) error {
	c.source = source
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return source.Run(ctx) })
	group.Go(func() error { return c.Host.Watch(ctx, func() { c.enqueue(host) }) })
	group.Go(func() error {
		<-ctx.Done()
		c.queue.ShutDown()
		return nil
	})
	group.Go(func() error {
		if !c.waitForObjects(ctx) {
			return nil
		}
		c.enqueue(objects | host)
		group.Go(func() error { return c.watchRules(ctx) })
		group.Go(func() error { return c.repeat(ctx, check, checkInterval) })
		group.Go(func() error { return c.repeat(ctx, resync, c.Config.Resync) })
		for c.processNextItem(ctx) {
		}
		return nil
	})
	if err := group.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// repeat has the kernel looked at from time to time, for the hands that no event tells of.
func (c *Controller) repeat(ctx context.Context, r reason, interval time.Duration) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait.Jitter(interval, resyncJitter)):
			c.enqueue(r)
		}
	}
}

func (c *Controller) processNextItem(ctx context.Context) bool {
	key, shutdown := c.queue.Get()
	if shutdown {
		return false
	}
	defer c.queue.Done(key)
	if c.Turned != nil {
		defer c.Turned()
	}
	taken := c.pending.take()
	if !c.needed(&taken) {
		return true
	}
	err := c.sync(ctx, taken)
	if c.retry != nil {
		c.retry.Stop()
	}
	switch {
	case ctx.Err() != nil:
	case err == nil:
		c.owed = 0
		c.backoff.Forget(key)
		if due := c.quarantine.Due(); !due.IsZero() {
			c.retry = time.AfterFunc(time.Until(due), func() { c.enqueue(retry) })
		}
	default:
		// What was to be looked at may not have been; the data plane knows by itself what it could not write.
		c.owed = taken.reasons | host
		delay := c.backoff.When(key)
		c.Log.WithError(err).WithField("failures", c.backoff.NumRequeues(key)).Error("not everything could be programmed, will be tried again")
		c.retry = time.AfterFunc(delay, func() { c.enqueue(retry) })
	}
	return true
}

// needed reports whether there is more to do than to take the look that was asked for, and takes it.
func (c *Controller) needed(taken *event) bool {
	news := taken.reasons &^ check
	found := taken.reasons&check != 0 && c.look(taken)
	if others := c.listen(taken); news == 0 && !found && !others {
		return false
	}
	taken.reasons |= c.owed
	return true
}

// listen reports whether programs of the host listen on other ports than before. No event tells of sockets: they are looked at
// with every check, and before anything new is exposed.
func (c *Controller) listen(taken *event) bool {
	if taken.reasons&(host|resync) != 0 {
		return false // all of the host is about to be observed
	}
	found, err := c.Host.Listeners()
	if err != nil || slices.Equal(found, c.host.Listeners) {
		return false // the next observation tells of the error
	}
	c.host.Listeners = found
	taken.reasons |= listeners
	if taken.since.IsZero() {
		taken.since = time.Now()
	}
	return true
}

// look reports whether somebody else changed what is programmed.
func (c *Controller) look(taken *event) bool {
	changed, err := c.Dataplane.Check()
	blind := ""
	if err != nil {
		blind = err.Error()
	}
	if blind != c.blind && blind != "" {
		c.Log.WithError(err).Warn("could not look whether somebody else changed what is programmed")
	}
	c.blind = blind
	if taken.since.IsZero() {
		taken.since = time.Now()
	}
	return changed
}

// sync applies what the objects and the host ask for now.
func (c *Controller) sync(ctx context.Context, taken event) error {
	started := time.Now()
	took := stages{waited: started.Sub(taken.since)}
	if taken.reasons&(host|resync) != 0 {
		observed, err := c.Host.Observe()
		if err != nil {
			err = fmt.Errorf("observing the host: %w", err)
			c.tell(Outcome{Took: time.Since(started), Err: err})
			return err
		}
		c.host = observed
		c.Dataplane.HostChanged()
	}
	if taken.reasons&resync != 0 {
		c.Dataplane.Verify()
	}
	took.observe = time.Since(started)
	if taken.reasons&(objects|host|resync|listeners) != 0 {
		calculating := time.Now()
		c.snapshot = c.source.Snapshot()
		c.state, c.found = c.calculator.Calculate(c.snapshot, c.host)
		took.calc = time.Since(calculating)
		c.findings.report(c.allFound())
	}
	applying := time.Now()
	applied, result, err := c.quarantine.Apply(ctx, applying, c.state)
	took.apply, took.total = time.Since(applying), time.Since(started)
	c.report(taken, applied, result, took)
	found := c.allFound()
	c.findings.report(found)
	facts := &status.Facts{Snapshot: c.snapshot, Host: c.host, State: applied, Findings: found, Err: err}
	c.tell(Outcome{Facts: facts, Result: result, Took: took.total, Err: err})
	if !c.ready && (err == nil || result.InPlace && ctx.Err() == nil) {
		c.verifyOrReady(taken, result)
	}
	return err
}

// verifyOrReady says that everything is in effect once it was found so: what was only written is found out for sure first.
func (c *Controller) verifyOrReady(taken event, result dataplane.Result) {
	verified := taken.reasons&resync != 0 && len(result.Repaired) == 0
	if !verified && !result.Empty() {
		c.enqueue(resync)
		return
	}
	c.ready = true
	c.Ready()
}

func (c *Controller) tell(o Outcome) {
	if c.Applied != nil {
		c.Applied(o)
	}
}
