// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package status

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/time/rate"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"

	"github.com/smartnat/smartnat/apis/smartnat/conditions"
	"github.com/smartnat/smartnat/apis/smartnat/conflicts"
	"github.com/smartnat/smartnat/apis/smartnat/grants"
	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/apis/smartnat/validation"
	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/finding"
	"github.com/smartnat/smartnat/pkg/objects"
)

// Conditions writes the conditions of all Mappings if there may be no relay to do it: a gateway with direct access to the
// cluster knows everything that conditions depend on. All programs of SmartNat compute the same conditions, so the second one
// finds them written.
type Conditions struct {
	api     API
	log     logrus.FieldLogger
	limiter *rate.Limiter
	queue   workqueue.TypedRateLimitingInterface[key]
	wake    chan struct{}

	mu     sync.Mutex
	latest *finding.Report
	known  map[key]conditions.Facts

	grantMode string
	// seen are the objects that lost was computed from, granted are their PortGrants. Only Run uses them.
	seen    objects.Snapshot
	granted *grants.Grants
	lost    map[types.NamespacedName]conflicts.Lost
	// failing is set once a failed write was logged. Only the worker uses it.
	failing bool
}

// NewConditions returns Conditions that do nothing until Run. grantMode is the value of grants in the config.
func NewConditions(api API, grantMode string, log logrus.FieldLogger) *Conditions {
	return &Conditions{
		api: api, grantMode: grantMode, log: log, limiter: rate.NewLimiter(writesPerSecond, writesAtOnce), wake: make(chan struct{}, 1),
		queue: workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[key](minBackoff, refreshEvery)),
	}
}

// Report takes the objects of an apply. It never blocks; the last report wins.
func (c *Conditions) Report(f finding.Report) {
	c.mu.Lock()
	c.latest = &f
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// Reported checks a Mapping again after its entry of this gateway was written.
func (c *Conditions) Reported(mapping types.NamespacedName) { c.queue.Add(mapping) }

// Run writes missing conditions until ctx ends.
func (c *Conditions) Run(ctx context.Context) {
	var running sync.WaitGroup
	running.Go(func() {
		for c.processNextItem(ctx) {
		}
	})
	defer running.Wait()
	defer c.queue.ShutDown()
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.wake:
		}
		c.digest()
		select {
		case <-ctx.Done():
			return
		case <-time.After(digestEvery):
		}
	}
}

// digest queues the Mappings whose inputs changed.
func (c *Conditions) digest() {
	c.mu.Lock()
	defer c.mu.Unlock()
	f := c.latest
	c.latest = nil
	if f == nil {
		return
	}
	c.findLost(f.Snapshot)
	services := make(map[key]*corev1.Service, len(f.Snapshot.Services))
	for _, s := range f.Snapshot.Services {
		services[key{Namespace: s.Namespace, Name: s.Name}] = s
	}
	known := make(map[key]conditions.Facts, len(f.Snapshot.Mappings))
	for _, m := range f.Snapshot.Mappings {
		k := conflicts.Key(m)
		now := conditions.Facts{
			Mapping: m, Conflicts: c.lost[k], Service: services[key{Namespace: m.Namespace, Name: m.Spec.ServiceName}],
			Reporting: true, // this gateway does
		}
		known[k] = now
		if before, ok := c.known[k]; !ok || before.Mapping != m || before.Service != now.Service ||
			!before.Conflicts.Equal(now.Conflicts) {
			c.queue.Add(k)
		}
	}
	c.known = known
}

// findLost computes again what Mappings do not get if it may have changed.
func (c *Conditions) findLost(now objects.Snapshot) {
	if c.lost != nil && slices.Equal(c.seen.Mappings, now.Mappings) && slices.Equal(c.seen.PortGrants, now.PortGrants) &&
		slices.Equal(c.seen.Namespaces, now.Namespaces) {
		return
	}
	c.seen = now
	if c.grantMode != config.GrantsReport {
		c.granted = grants.New(now.PortGrants, now.Namespaces, grants.Options{Required: c.grantMode == config.GrantsRequired, Before: c.granted})
	}
	c.lost = conflicts.Find(valid(now.Mappings), c.granted)
}

func valid(mappings []*v1alpha1.Mapping) []*v1alpha1.Mapping {
	return slices.DeleteFunc(slices.Clone(mappings), func(m *v1alpha1.Mapping) bool { return len(validation.ValidateMapping(m)) > 0 })
}

func (c *Conditions) processNextItem(ctx context.Context) bool {
	k, shutdown := c.queue.Get()
	if shutdown {
		return false
	}
	defer c.queue.Done(k)
	err := c.limiter.Wait(ctx)
	if err == nil {
		err = c.settle(ctx, k)
	}
	switch {
	case err == nil:
		c.failing = false
		c.queue.Forget(k)
		return true
	case ctx.Err() != nil:
		return true
	case apierrors.IsConflict(err):
		c.log.WithError(err).Debug("conflict while writing conditions, will retry")
	case !c.failing:
		c.failing = true
		c.log.WithError(err).Warn("cannot write conditions of Mappings, will retry")
	}
	c.queue.AddRateLimited(k)
	return true
}

// settle computes the conditions of the current Mapping, and writes them unless they are there.
func (c *Conditions) settle(ctx context.Context, k key) error {
	c.mu.Lock()
	facts, ok := c.known[k]
	c.mu.Unlock()
	if !ok {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	live, err := c.api.Get(ctx, k)
	switch {
	case apierrors.IsNotFound(err):
		return nil
	case err != nil:
		return fmt.Errorf("reading Mapping %s: %w", k, err)
	case live.UID != facts.Mapping.UID || live.Generation != facts.Mapping.Generation:
		return nil // the next snapshot will have the current version
	}
	facts.Mapping = live
	decided := conditions.Decide(facts, metav1.Now())
	if conditions.Holds(live.Status, decided) {
		return nil
	}
	body, err := conditions.Apply(conditions.AppliedMetadata{
		Namespace: k.Namespace, Name: k.Name, UID: live.UID, ResourceVersion: live.ResourceVersion,
	}, decided)
	if err != nil {
		return err
	}
	err = c.api.Apply(ctx, k, v1alpha1.ConditionsFieldManager, body)
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("writing the conditions of Mapping %s: %w", k, err)
	}
	return nil
}
