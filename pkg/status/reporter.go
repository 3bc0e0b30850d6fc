// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package status

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/time/rate"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/util/workqueue"

	"github.com/smartnat/smartnat/pkg/finding"
)

const (
	// digestEvery is the shortest interval between looks at reports: one costs as much as a change does.
	digestEvery = time.Second
	// endpointsAfter delays changes that only concern the number of endpoints.
	endpointsAfter = 10 * time.Second
	// heartbeat is the longest interval between writes, as a sign of life of this gateway.
	heartbeat = time.Minute
	// refreshEvery is the interval of reading the entries: other writers may have removed them.
	refreshEvery = 10 * time.Minute
	// failureGrace is how long entries stay programmed while applies fail, because applies are retried.
	failureGrace = 30 * time.Second
	// writesPerSecond is below a relay's limit per user, 50 and a burst of 250.
	writesPerSecond, writesAtOnce = 40, 150
	minBackoff, maxBackoff        = time.Second, time.Minute
)

// Writer reads and writes the entries of this gateway.
type Writer interface {
	Read(ctx context.Context) (map[types.NamespacedName]Entry, error)
	Write(ctx context.Context, mapping types.NamespacedName, e Entry) error
	Remove(ctx context.Context, mapping types.NamespacedName) error
}

// Options configure a Reporter.
type Options struct {
	// Instance is the name of this gateway.
	Instance string
	// StandbyAddresses are served even before the host holds them.
	StandbyAddresses []netip.Addr
	Writer           Writer
	// Reported, if set, is called after each write of an entry.
	Reported func(mapping types.NamespacedName)
	Log      logrus.FieldLogger
}

// Items of the queue in addition to Mappings, which have a namespace.
const (
	// reportItem: there is a new report.
	reportItem = "report"
	// readItem: the entries are due to be read.
	readItem = "read"
	// heartbeatItem: a heartbeat may be due.
	heartbeatItem = "heartbeat"
)

// Reporter writes into the status of Mappings what this gateway has in effect.
type Reporter struct {
	Options
	queue workqueue.TypedDelayingInterface[key]

	mu     sync.Mutex
	latest *finding.Report

	// Only Run uses the following fields.
	known           bool // have was read
	have            map[key]Entry
	wanted          map[key]Entry // by the report in last
	last            *finding.Report
	digested, wrote time.Time
	// failing is the time since which applies fail. failed is set while requests fail, and backoff has the next pause.
	failing time.Time
	failed  bool
	backoff wait.Backoff
	limiter *rate.Limiter
}

// New returns a Reporter that does nothing until Run.
func New(options Options) *Reporter {
	return &Reporter{
		Options: options, queue: workqueue.NewTypedDelayingQueue[key](), backoff: newBackoff(),
		limiter: rate.NewLimiter(writesPerSecond, writesAtOnce),
	}
}

func newBackoff() wait.Backoff {
	return wait.Backoff{Duration: minBackoff, Cap: maxBackoff, Factor: 2, Jitter: 0.2, Steps: 32}
}

// Report takes the result of an apply. It never blocks; the last report wins.
func (r *Reporter) Report(f finding.Report) {
	r.mu.Lock()
	r.latest = &f
	r.mu.Unlock()
	r.queue.Add(key{Name: reportItem})
}

// Run writes changed entries until ctx ends. A failure pauses all requests, because they go to one server.
func (r *Reporter) Run(ctx context.Context) {
	defer context.AfterFunc(ctx, r.queue.ShutDown)()
	for {
		k, shutdown := r.queue.Get()
		if shutdown || ctx.Err() != nil {
			return
		}
		if err := r.process(ctx, k); err != nil && ctx.Err() == nil {
			r.queue.Add(k)
			select {
			case <-ctx.Done():
			case <-time.After(r.fail(err)):
			}
		}
		r.queue.Done(k)
	}
}

// process takes a new report and then handles the item.
func (r *Reporter) process(ctx context.Context, k key) error {
	if rest := digestEvery - time.Since(r.digested); rest <= 0 {
		r.digest(time.Now())
	} else if k == (key{Name: reportItem}) {
		r.queue.AddAfter(k, rest)
	}
	switch k {
	case key{Name: reportItem}:
		return nil
	case key{Name: readItem}:
		return r.read(ctx)
	case key{Name: heartbeatItem}:
		return r.beat(ctx)
	}
	wanted, is := r.wanted[k]
	if have, was := r.have[k]; !r.known || is == was && have.equal(wanted) {
		return nil
	}
	return r.write(ctx, k)
}

// fail logs the error and returns how long to pause.
func (r *Reporter) fail(err error) time.Duration {
	if notTaken(err) {
		level := logrus.InfoLevel
		if apierrors.IsForbidden(err) {
			level = logrus.WarnLevel // an administrator can fix it
		}
		r.Log.WithError(err).WithField("again", refreshEvery).Log(level, "the server does not accept the status of Mappings")
		r.failed, r.known = false, false
		r.queue.Add(key{Name: readItem})
		return refreshEvery
	}
	if !r.failed {
		r.Log.WithError(err).Warn("cannot report the status of Mappings, will retry")
	}
	r.failed = true
	return r.backoff.Step()
}

// succeed ends the retries.
func (r *Reporter) succeed() {
	if r.failed {
		r.Log.Info("the status of Mappings is reported again")
	}
	r.failed, r.backoff = false, newBackoff()
}

// read reads the entries and schedules the next read.
func (r *Reporter) read(ctx context.Context) error {
	have, err := r.Writer.Read(ctx)
	if err != nil {
		return err
	}
	r.succeed()
	r.have, r.known = have, true
	r.compare()
	r.queue.Add(key{Name: heartbeatItem}) // after the entries that have to be written
	r.queue.AddAfter(key{Name: readItem}, wait.Jitter(refreshEvery, 0.2))
	return nil
}

// beat writes any entry if none was written for long, and schedules the next heartbeat.
func (r *Reporter) beat(ctx context.Context) error {
	if !r.known {
		return nil // the next read schedules one
	}
	rest := heartbeat - time.Since(r.wrote)
	if rest <= 0 {
		rest = heartbeat
		for k := range r.wanted {
			if err := r.write(ctx, k); err != nil {
				return err
			}
			break
		}
	}
	r.queue.AddAfter(key{Name: heartbeatItem}, rest)
	return nil
}

// digest computes the wanted entries. It returns false if there is no new report.
func (r *Reporter) digest(now time.Time) bool {
	r.mu.Lock()
	f := r.latest
	r.latest = nil
	r.mu.Unlock()
	if f == nil {
		return false
	}
	r.digested = now
	before := r.last
	r.last = f
	if some, ok := changed(before, f); ok {
		r.update(*f, some)
	} else {
		r.replace(*f, now)
	}
	if !r.known {
		r.queue.Add(key{Name: readItem})
	}
	return true
}

// replace computes the wanted entries of all Mappings.
func (r *Reporter) replace(f finding.Report, now time.Time) {
	wanted := entries(r.Instance, r.StandbyAddresses, f)
	if f.Err == nil {
		r.failing = time.Time{}
	} else if r.failing.IsZero() {
		r.failing = now
	}
	if f.Err != nil && now.Sub(r.failing) < failureGrace {
		for k, e := range wanted {
			if before, ok := r.wanted[k]; ok && before.Programmed && before.UID == e.UID && before.ObservedGeneration == e.ObservedGeneration {
				wanted[k] = before
			}
		}
	}
	r.wanted = wanted
	if r.known {
		r.compare()
	}
}

// update computes the wanted entries of some Mappings.
func (r *Reporter) update(f finding.Report, some map[string]struct{}) {
	now := entries(r.Instance, r.StandbyAddresses, about(f, some))
	for owner := range some {
		k := keyOf(owner)
		if e, wanted := now[k]; wanted {
			r.wanted[k] = e
		} else {
			delete(r.wanted, k)
		}
		if r.known {
			r.compareOne(k)
		}
	}
}

// compare queues the entries that have to be written.
func (r *Reporter) compare() {
	for k := range r.wanted {
		r.compareOne(k)
	}
	for k := range r.have {
		if _, still := r.wanted[k]; !still {
			r.queue.Add(k)
		}
	}
}

// compareOne queues an entry if it has to be written.
func (r *Reporter) compareOne(k key) {
	e, wanted := r.wanted[k]
	is, there := r.have[k]
	if there == wanted && is.equal(e) {
		return
	}
	is.Endpoints = e.Endpoints
	if there && wanted && is.equal(e) {
		r.queue.AddAfter(k, endpointsAfter)
	} else {
		r.queue.Add(k)
	}
}

// write writes or removes an entry.
func (r *Reporter) write(ctx context.Context, k key) error {
	if err := r.limiter.Wait(ctx); err != nil {
		return err
	}
	r.wrote = time.Now()
	e, ok := r.wanted[k]
	var err error
	if ok {
		err = r.Writer.Write(ctx, k, e)
	} else {
		err = r.Writer.Remove(ctx, k)
	}
	if err != nil && !refused(err) {
		return err
	}
	r.succeed()
	if err != nil {
		r.Log.WithError(err).WithField("mapping", k.String()).Warn("server rejected the status of a Mapping")
	} else if r.Reported != nil {
		r.Reported(k)
	}
	// A refused entry is not written again until it changes, or until the next read.
	if ok {
		r.have[k] = e
	} else {
		delete(r.have, k)
	}
	return nil
}

// notTaken reports whether the server accepts no status from this gateway at all.
func notTaken(err error) bool {
	return apierrors.IsMethodNotSupported(err) || apierrors.IsForbidden(err)
}

// refused reports whether the server rejects the status of one Mapping: a retry would not help.
func refused(err error) bool {
	return apierrors.IsInvalid(err) || apierrors.IsBadRequest(err) || apierrors.IsConflict(err) || apierrors.IsNotFound(err)
}
