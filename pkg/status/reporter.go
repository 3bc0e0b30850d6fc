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
)

const (
	// digestEvery is the least time between two looks at what came of applies: it costs as much as a change does.
	digestEvery = time.Second
	// endpointsAfter holds back what says nothing but that there are more or fewer endpoints.
	endpointsAfter = 10 * time.Second
	// heartbeat is how often something is said at least, so that it is known that this gateway is there.
	heartbeat = time.Minute
	// refreshEvery is how often it is read what there is: others may have taken it out.
	refreshEvery = 10 * time.Minute
	// patience is how long what is in effect is said to be so although an apply fails: it is tried again.
	patience = 30 * time.Second
	// writesPerSecond is less than what a relay takes of one user, 50 and 250 at once.
	writesPerSecond, writesAtOnce = 40, 150
	minBackoff, maxBackoff        = time.Second, time.Minute
)

// Writer reads and writes the entries of this gateway.
type Writer interface {
	Read(ctx context.Context) (map[types.NamespacedName]Entry, error)
	Write(ctx context.Context, mapping types.NamespacedName, e Entry) error
	Remove(ctx context.Context, mapping types.NamespacedName) error
}

// Options are what a Reporter is made of.
type Options struct {
	// Instance is the name of this gateway.
	Instance string
	// StandbyAddresses are served although the host does not hold them yet.
	StandbyAddresses []netip.Addr
	Writer           Writer
	// Reported, where it is set, is told which entry was written.
	Reported func(mapping types.NamespacedName)
	Log      logrus.FieldLogger
}

// Reporter has the status of Mappings say what this gateway has in effect.
type Reporter struct {
	Options
	wake chan struct{}

	mu     sync.Mutex
	latest *Facts

	// What follows is Run's alone.
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

// Report takes what came of an apply. It never waits; of many reports the last one counts.
func (r *Reporter) Report(f Facts) {
	r.mu.Lock()
	r.latest = &f
	r.mu.Unlock()
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Run writes what changed until ctx ends.
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
				level = logrus.WarnLevel // that somebody can set right
			}
			r.Log.WithError(err).WithField("again", refreshEvery).Log(level, "the status of Mappings is not reported, as it is not taken")
			failed, r.known = false, false
			if !r.sleep(ctx, refreshEvery, false) {
				return
			}
		case err != nil:
			if !failed {
				r.Log.WithError(err).Warn("the status of Mappings cannot be reported, will be tried again")
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

// step does the next thing that is to be done, if anything is.
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

// digest finds what the entries are to be now. It returns false when there is nothing new.
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

// compare notes what is to be written, and when.
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

// next returns the Mapping to write about; for a heartbeat any will do.
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

// rest is how long there is nothing to do, unless somebody reports.
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
		r.Log.WithError(err).WithField("mapping", k.String()).Warn("the status of a Mapping was refused")
	}
	if err == nil && r.Reported != nil {
		r.Reported(k)
	}
	// What was refused is not said again until it changes, or until it is read what there is.
	delete(r.due, k)
	if ok {
		r.have[k] = e
	} else {
		delete(r.have, k)
	}
	return nil
}

// sleep returns false when ctx ended. A report may end it.
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

// notTaken says that whoever is asked does not take the status of this gateway at all.
func notTaken(err error) bool {
	return apierrors.IsMethodNotSupported(err) || apierrors.IsForbidden(err)
}

// refused says that it was not taken of one Mapping: what is wrong with it does not pass by itself.
func refused(err error) bool {
	return apierrors.IsInvalid(err) || apierrors.IsBadRequest(err) || apierrors.IsConflict(err) || apierrors.IsNotFound(err)
}
