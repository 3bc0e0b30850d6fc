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
	"github.com/smartnat/smartnat/pkg/finding"
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/loglimit"
	"github.com/smartnat/smartnat/pkg/objects"
	"github.com/smartnat/smartnat/pkg/packet"
	"github.com/smartnat/smartnat/pkg/quarantine"
)

// minBackoff and maxBackoff bound the delay before a failed apply is retried. The cause may disappear without an event, so
// the upper bound is low. Every change that is applied meanwhile counts as another failure.
const (
	minBackoff = 500 * time.Millisecond
	maxBackoff = 5 * time.Second
)

// resyncJitter spreads the resyncs of gateways that started at the same time.
const resyncJitter = 0.1

// checkInterval is the time between two checks for external modifications. A check costs microseconds.
const checkInterval = 3 * time.Second

// kernelKey is the only key of the queue: the whole kernel state is compared, whatever changed.
const kernelKey = "kernel"

// Source provides the objects.
type Source interface {
	// Run blocks until ctx ends. It returns an error if the source can never work.
	Run(ctx context.Context) error
	// HasSynced reports whether the Snapshot is complete. The source calls Enqueue when that becomes true.
	HasSynced() bool
	Snapshot() objects.Snapshot
}

// Host is the machine that this process runs on.
type Host interface {
	Observe() (gateway.Host, error)
	// Listeners returns the listening sockets, which have no change events. It is cheap.
	Listeners() ([]gateway.Listener, error)
	// OtherRules returns what rules of other programs say about the host. It is cheap.
	OtherRules() (gateway.OtherRules, error)
	// Watch calls changed whenever what Observe returns may have changed, and blocks until ctx ends.
	Watch(ctx context.Context, changed func()) error
}

// Dataplane programs the kernel to match a State. Only the worker calls it, except for Tracer and Plan.
type Dataplane interface {
	quarantine.Dataplane
	// Guard puts up the boundary and removes nothing. It is for the time before the first Apply.
	Guard(ctx context.Context, state gateway.State) (dataplane.Result, error)
	// HostChanged makes the next Apply read routes, policy routing rules and sysctls again.
	HostChanged()
	// Watch calls changed when a Check is due. It blocks until ctx ends or the watch fails.
	Watch(ctx context.Context, changed func()) error
	// Check looks for external modifications cheaply and reports whether the next Apply has something to repair.
	Check() (bool, error)
	// Verify makes the next Apply compare everything with the kernel.
	Verify()
	// Tracer returns a model of the rules that are now in the kernel. It is safe for concurrent use with all other functions.
	Tracer(ctx context.Context, family gateway.Family) (packet.Tracer, error)
	// Plan compares the kernel with a State and writes nothing. It is safe for concurrent use with all other functions.
	Plan(ctx context.Context, state gateway.State) (dataplane.Plan, error)
}

// Options configures a Controller.
type Options struct {
	Config    config.Config
	Host      Host
	Dataplane Dataplane
	Log       logrus.FieldLogger
	// Ready is called once, after every rule was found in the kernel. A route or a sysctl that fails does not delay it.
	Ready func()
	// Applied, if set, receives the outcome of each apply. It must not block.
	Applied func(Outcome)
	// CountSourcePorts, if set, returns the number of source ports in use by masqueraded connections. It is called
	// concurrently with all other functions.
	CountSourcePorts func(shared []gateway.LinkAddresses) ([]gateway.SourcePorts, error)
	// PortsCounted, if set, receives the result of each count. It must not block.
	PortsCounted func(PortUse)
	// ItemProcessed, if set, is called after each item that the worker processed, at least every few seconds.
	ItemProcessed func()
}

// Outcome is the result of one apply.
type Outcome struct {
	// Report is the input and result of the apply. It is nil if the host could not be observed; nothing was attempted then.
	Report *finding.Report
	// Result says what was written.
	Result dataplane.Result
	// Took is the total duration.
	Took time.Duration
	// Err says why the apply is incomplete.
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
	ports      sourcePorts
	ready      bool
	// guarded is the State that the boundary was put up for before the first apply, or nil if the boundary may be down.
	guarded *gateway.State
	// host, state, snapshot and found are the inputs of the last apply. They are reused until an event invalidates them.
	host     gateway.Host
	state    gateway.State
	snapshot objects.Snapshot
	found    []finding.Finding
	// reported is the State in effect when the worker last logged a write.
	reported gateway.State
	// retryReasons are those of the failed apply, and retry is the timer that repeats it.
	retryReasons reason
	retry        *time.Timer
	// checkError is the error of the last Check, and notPermitted that of kernel parameters that no rule depends on.
	checkError, notPermitted loglimit.LastError
}

// Tracer returns a model of what the rules that are now in the kernel do to packets of a family.
func (c *Controller) Tracer(ctx context.Context, family gateway.Family) (packet.Tracer, error) {
	return c.Dataplane.Tracer(ctx, family)
}

// Plan compares the kernel with a State and writes nothing.
func (c *Controller) Plan(ctx context.Context, state gateway.State) (dataplane.Plan, error) {
	return c.Dataplane.Plan(ctx, state)
}

// New returns a Controller that does nothing until Run. The source must call Enqueue when objects change.
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

// Enqueue requests an apply because objects changed. Calls made while one is waiting are coalesced; calls made while one is
// running cause one more.
func (c *Controller) Enqueue() { c.enqueue(objectsChanged) }

// Queued returns the length of the queue: 0 or 1, because all events are coalesced into one item.
func (c *Controller) Queued() int { return c.queue.Len() }

func (c *Controller) enqueue(r reason) {
	c.pending.add(r, time.Now())
	c.queue.Add(kernelKey)
}

// Run runs the source, the host watch, checks, resyncs and the worker until ctx ends or one of them fails for good. Before
// the source has synced it writes only the boundary. It undoes nothing when it returns.
func (c *Controller) Run(ctx context.Context, source Source) error {
	c.source = source
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return source.Run(ctx) })
	group.Go(func() error { return c.Host.Watch(ctx, func() { c.enqueue(hostChanged) }) })
	group.Go(func() error {
		<-ctx.Done()
		c.queue.ShutDown()
		return nil
	})
	group.Go(func() error {
		if !c.waitForObjects(ctx) {
			return nil
		}
		c.enqueue(objectsChanged | hostChanged)
		group.Go(func() error { return c.watchRules(ctx) })
		group.Go(func() error { return c.repeat(ctx, checkDue, checkInterval) })
		group.Go(func() error { return c.repeat(ctx, resyncDue, c.Config.Resync) })
		if c.CountSourcePorts != nil {
			group.Go(func() error { return c.countSourcePorts(ctx) })
		}
		for c.processNextItem(ctx) {
		}
		return nil
	})
	if err := group.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// repeat enqueues r at jittered intervals, because some external modifications cause no event.
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
	if c.ItemProcessed != nil {
		defer c.ItemProcessed()
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
		c.retryReasons = 0
		c.backoff.Forget(key)
		if due := c.quarantine.Due(); !due.IsZero() {
			c.retry = time.AfterFunc(time.Until(due), func() { c.enqueue(retryDue) })
		}
	default:
		// Observe the host again, because it may not have been observed. The data plane tracks itself what it could not
		// write.
		c.retryReasons = taken.reasons | hostChanged
		delay := c.backoff.When(key)
		c.Log.WithError(err).WithField("failures", c.backoff.NumRequeues(key)).Error("failed to program everything, will retry")
		c.retry = time.AfterFunc(delay, func() { c.enqueue(retryDue) })
	}
	return true
}

// needed performs the check that is due and reports whether an apply is needed.
func (c *Controller) needed(taken *event) bool {
	events := taken.reasons &^ checkDue
	drifted := taken.reasons&checkDue != 0 && c.checkDrift(taken)
	if listeners := c.checkListeners(taken); events == 0 && !drifted && !listeners {
		return false
	}
	taken.reasons |= c.retryReasons
	return true
}

// checkListeners reports whether the listening sockets of the host changed, or what rules of other programs say about it. Neither has
// change events of its own, so this runs with every check and before each apply.
func (c *Controller) checkListeners(taken *event) bool {
	if taken.reasons&(hostChanged|resyncDue) != 0 {
		return false // sync observes the whole host
	}
	// The next Observe reports errors.
	changed := false
	if found, err := c.Host.Listeners(); err == nil && !slices.Equal(found, c.host.Listeners) {
		c.host.Listeners, changed = found, true
	}
	if found, err := c.Host.OtherRules(); err == nil && !found.Equal(c.host.Others) {
		c.host.Others, changed = found, true
	}
	if !changed {
		return false
	}
	taken.reasons |= listenersChanged
	if taken.since.IsZero() {
		taken.since = time.Now()
	}
	return true
}

// checkDrift reports whether a Check found external modifications.
func (c *Controller) checkDrift(taken *event) bool {
	changed, err := c.Dataplane.Check()
	if c.checkError.Changed(err) {
		c.Log.WithError(err).Warn("failed to check for external modifications")
	}
	if taken.since.IsZero() {
		taken.since = time.Now()
	}
	return changed
}

// sync applies the current State.
func (c *Controller) sync(ctx context.Context, taken event) error {
	started := time.Now()
	took := stages{waited: started.Sub(taken.since)}
	if taken.reasons&(hostChanged|resyncDue) != 0 {
		observed, err := c.Host.Observe()
		if err != nil {
			err = fmt.Errorf("observing the host: %w", err)
			c.reportOutcome(Outcome{Took: time.Since(started), Err: err})
			return err
		}
		c.host = observed
		c.Dataplane.HostChanged()
	}
	if taken.reasons&resyncDue != 0 {
		c.Dataplane.Verify()
	}
	took.observe = time.Since(started)
	if taken.reasons&(objectsChanged|hostChanged|resyncDue|listenersChanged) != 0 {
		calculating := time.Now()
		c.snapshot = c.source.Snapshot()
		c.state, c.found = c.calculator.Calculate(c.snapshot, c.host)
		took.calc = time.Since(calculating)
		c.findings.report(c.allFindings())
	}
	applying := time.Now()
	applied, result, err := c.quarantine.Apply(ctx, applying, c.state)
	took.apply, took.total = time.Since(applying), time.Since(started)
	c.ports.apply(applied)
	c.logApply(taken, applied, result, took)
	found := c.allFindings()
	c.findings.report(found)
	report := &finding.Report{Snapshot: c.snapshot, Host: c.host, State: applied, Findings: found, Refused: c.allRefused(applied), Resolved: c.calculator.Resolved(), Err: err}
	c.reportOutcome(Outcome{Report: report, Result: result, Took: took.total, Err: err})
	if !c.ready && (err == nil || result.InPlace && ctx.Err() == nil) {
		c.verifyOrReady(taken, result)
	}
	return err
}

// verifyOrReady calls Ready once everything was verified to be in effect. After a write it first requests a resync, which
// reads back what was written.
func (c *Controller) verifyOrReady(taken event, result dataplane.Result) {
	verified := taken.reasons&resyncDue != 0 && len(result.Repaired) == 0
	if !verified && !result.Empty() {
		c.enqueue(resyncDue)
		return
	}
	c.ready = true
	c.Ready()
}

func (c *Controller) reportOutcome(o Outcome) {
	if c.Applied != nil {
		c.Applied(o)
	}
}
