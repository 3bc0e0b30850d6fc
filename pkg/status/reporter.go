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
	// patience is how long entries stay programmed while applies fail, because applies are retried.
	patience = 30 * time.Second
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

// Reporter writes into the status of Mappings what this gateway has in effect.
type Reporter struct {
	Options
	wake chan struct{}

	mu     sync.Mutex
	latest *finding.Report

	// Only Run uses the following fields.
	known   bool // have was read
	have    map[key]Entry
	wanted  map[key]Entry
	due     map[key]time.Time
	failing time.Time
	limiter *rate.Limiter
}

// New returns a Reporter that does nothing until Run.
func New(options Options) *Reporter {
	return &Reporter{
		Options: options, wake: make(chan struct{}, 1), have: map[key]Entry{}, due: map[key]time.Time{},
		limiter: rate.NewLimiter(writesPerSecond, writesAtOnce),
	}
}

// Report takes the result of an apply. It never blocks; the last report wins.
func (r *Reporter) Report(f finding.Report) {
	r.mu.Lock()
	r.latest = &f
	r.mu.Unlock()
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Run writes changed entries until ctx ends.
func (r *Reporter) Run(ctx context.Context) {
	backoff := wait.Backoff{Duration: minBackoff, Cap: maxBackoff, Factor: 2, Jitter: 0.2, Steps: 32}
	retry, failed := backoff, false
	var digested, wrote, refresh time.Time
	for {
		now := time.Now()
		if now.Sub(digested) >= digestEvery && r.digest(now) {
			digested = now
		}
		if r.wanted == nil {
			if !r.sleep(ctx, heartbeat, true) {
				return
			}
			continue
		}
		err := r.step(ctx, now, &refresh, &wrote)
		switch {
		case ctx.Err() != nil:
			return
		case notTaken(err):
			level := logrus.InfoLevel
			if apierrors.IsForbidden(err) {
				level = logrus.WarnLevel // an administrator can fix it
			}
			r.Log.WithError(err).WithField("again", refreshEvery).Log(level, "the server does not accept the status of Mappings")
			failed, r.known = false, false
			if !r.sleep(ctx, refreshEvery, false) {
				return
			}
		case err != nil:
			if !failed {
				r.Log.WithError(err).Warn("cannot report the status of Mappings, will retry")
			}
			failed = true
			if !r.sleep(ctx, retry.Step(), false) {
				return
			}
		default:
			if failed {
				r.Log.Info("the status of Mappings is reported again")
			}
			retry, failed = backoff, false
			if !r.sleep(ctx, r.rest(now, wrote, digested), true) {
				return
			}
		}
	}
}

// step does the next due read or write, if any.
func (r *Reporter) step(ctx context.Context, now time.Time, refresh, wrote *time.Time) error {
	if !r.known || !now.Before(*refresh) {
		have, err := r.Writer.Read(ctx)
		if err != nil {
			return err
		}
		r.have, r.known = have, true
		*refresh = now.Add(wait.Jitter(refreshEvery, 0.2))
		r.compare(now)
	}
	k, ok := r.next(now, now.Sub(*wrote) >= heartbeat)
	if !ok {
		return nil
	}
	if err := r.limiter.Wait(ctx); err != nil {
		return err
	}
	*wrote = now
	return r.write(ctx, k)
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
	wanted := entries(r.Instance, r.StandbyAddresses, *f)
	if f.Err == nil {
		r.failing = time.Time{}
	} else if r.failing.IsZero() {
		r.failing = now
	}
	if f.Err != nil && now.Sub(r.failing) < patience {
		for k, e := range wanted {
			if before, ok := r.wanted[k]; ok && before.Programmed && before.UID == e.UID && before.ObservedGeneration == e.ObservedGeneration {
				wanted[k] = before
			}
		}
	}
	r.wanted = wanted
	if r.known {
		r.compare(now)
	}
	return true
}

// compare computes which entries have to be written, and when.
func (r *Reporter) compare(now time.Time) {
	due := map[key]time.Time{}
	note := func(k key, at time.Time) {
		if before, ok := r.due[k]; ok && before.Before(at) {
			at = before
		}
		due[k] = at
	}
	for k, e := range r.wanted {
		is, there := r.have[k]
		switch {
		case !there:
			note(k, now)
		case is.equal(e):
		default:
			is.Endpoints = e.Endpoints
			if is.equal(e) {
				note(k, now.Add(endpointsAfter))
				continue
			}
			note(k, now)
		}
	}
	for k := range r.have {
		if _, still := r.wanted[k]; !still {
			note(k, now)
		}
	}
	r.due = due
}

// next returns the Mapping to write next; any Mapping serves as a heartbeat.
func (r *Reporter) next(now time.Time, beat bool) (key, bool) {
	for k, at := range r.due {
		if !now.Before(at) {
			return k, true
		}
	}
	if beat {
		for k := range r.wanted {
			return k, true
		}
	}
	return key{}, false
}

// rest returns how long there is nothing to do unless a report arrives.
func (r *Reporter) rest(now, wrote, digested time.Time) time.Duration {
	until := now.Add(heartbeat)
	if beat := wrote.Add(heartbeat); len(r.wanted) > 0 {
		until = beat
	}
	for _, at := range r.due {
		if at.Before(until) {
			until = at
		}
	}
	r.mu.Lock()
	waiting := r.latest != nil
	r.mu.Unlock()
	if next := digested.Add(digestEvery); waiting && next.Before(until) {
		until = next
	}
	return max(until.Sub(now), 0)
}

func (r *Reporter) write(ctx context.Context, k key) error {
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
	if err != nil {
		r.Log.WithError(err).WithField("mapping", k.String()).Warn("server rejected the status of a Mapping")
	}
	if err == nil && r.Reported != nil {
		r.Reported(k)
	}
	// A refused entry is not written again until it changes, or until the next read.
	delete(r.due, k)
	if ok {
		r.have[k] = e
	} else {
		delete(r.have, k)
	}
	return nil
}

// sleep returns false if ctx ended. With wakes set, a report ends the sleep.
func (r *Reporter) sleep(ctx context.Context, d time.Duration, wakes bool) bool {
	var wake <-chan struct{}
	if wakes {
		wake = r.wake
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-wake:
	case <-timer.C:
	}
	return true
}

// notTaken reports whether the server accepts no status from this gateway at all.
func notTaken(err error) bool {
	return apierrors.IsMethodNotSupported(err) || apierrors.IsForbidden(err)
}

// refused reports whether the server rejects the status of one Mapping: a retry would not help.
func refused(err error) bool {
	return apierrors.IsInvalid(err) || apierrors.IsBadRequest(err) || apierrors.IsConflict(err) || apierrors.IsNotFound(err)
}
