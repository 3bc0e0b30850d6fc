// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package status

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"

	"github.com/smartnat/smartnat/relay/watchcache"
)

const (
	workers = 4
	// Retries of what could not be written back off between these.
	minBackoff = 50 * time.Millisecond
	maxBackoff = time.Minute
	// pause is the least time between two looks at what changed: bursts are taken together. It is longer where a look takes
	// long, so that looking never takes more than a share of a processor.
	pause      = 100 * time.Millisecond
	pauseShare = 4
)

// Recorder has Events written.
type Recorder interface {
	Event(about runtime.Object, eventType, reason, note string)
}

// Options are what a Controller is made of.
type Options struct {
	// Cache is what the relay knows of the cluster. Its Mappings hold the status that there is.
	Cache    *watchcache.Cache
	Mappings Mappings
	Recorder Recorder
	// Leases say which gateways are still there. Without them none is ever forgotten.
	Leases *Leases
	// InstanceTimeout is how long a gateway that is not heard of is counted on.
	InstanceTimeout time.Duration
	Log             logrus.FieldLogger
}

// Controller writes the conditions of all Mappings.
type Controller struct {
	Options
	view  view
	aging *aging
	queue workqueue.TypedRateLimitingInterface[key]
	now   func() metav1.Time
}

// New returns a Controller that does nothing until Run.
func New(options Options) *Controller {
	return &Controller{
		Options: options,
		queue:   workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[key](minBackoff, maxBackoff)),
		aging:   newAging(options.InstanceTimeout),
		now:     metav1.Now,
	}
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) {
	if !cache.WaitForCacheSync(ctx.Done(), c.Cache.HasSynced) {
		return
	}
	var running sync.WaitGroup
	for range workers {
		running.Go(func() {
			for c.processNextItem(ctx) {
			}
		})
	}
	if c.Leases != nil {
		running.Go(func() { c.Leases.watch(ctx, func(instance string) { c.aging.hear(instance, time.Now()) }) })
		running.Go(func() { c.age(ctx) })
	}
	c.follow(ctx)
	c.queue.ShutDown()
	running.Wait()
}

// follow reads the cache as a watcher does, and puts into the queue what changed.
func (c *Controller) follow(ctx context.Context) {
	for ctx.Err() == nil {
		entries, version := c.Cache.Mappings().List()
		c.enqueue(c.view.replace(entries))
		for {
			started := time.Now()
			next, mappings, services, err := c.catchUp(version)
			if err != nil {
				break // too far behind: all of it again
			}
			version = next
			rest := max(pause, pauseShare*time.Since(started))
			select {
			case <-ctx.Done():
				return
			case <-mappings:
			case <-services:
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(rest):
			}
		}
	}
}

// catchUp takes over what happened since a version. The channels are closed when there is more of Mappings and of Services.
func (c *Controller) catchUp(version watchcache.Version) (_ watchcache.Version, moreMappings, moreServices <-chan struct{}, err error) {
	// Services after Mappings: one that a Mapping began to name is visible by then.
	mappings, next, moreMappings, err := c.Cache.Mappings().Since(version)
	if err != nil {
		return 0, nil, nil, fmt.Errorf("changes of Mappings: %w", err)
	}
	services, _, moreServices, err := c.Cache.Services().Since(version)
	if err != nil {
		return 0, nil, nil, fmt.Errorf("changes of Services: %w", err)
	}
	c.enqueue(c.view.follow(mappings))
	if len(services) > 0 {
		named := sets.New[key]()
		for _, e := range services {
			named.Insert(key{Namespace: e.Object.Object.GetNamespace(), Name: e.Object.Object.GetName()})
		}
		c.enqueue(c.view.naming(named))
	}
	return next, moreMappings, moreServices, nil
}

func (c *Controller) enqueue(keys sets.Set[key]) {
	for k := range keys {
		c.queue.Add(k)
	}
}

func (c *Controller) processNextItem(ctx context.Context) bool {
	k, shutdown := c.queue.Get()
	if shutdown {
		return false
	}
	defer c.queue.Done(k)
	err := c.settle(ctx, k)
	switch {
	case err == nil:
		c.queue.Forget(k)
		return true
	case ctx.Err() != nil:
		return true
	case apierrors.IsConflict(err):
		// It changed meanwhile, as often as not because another relay wrote what we were about to.
		c.Log.WithError(err).Debug("the status will be decided again")
	default:
		c.Log.WithError(err).WithFields(logrus.Fields{"mapping": k.String(), "failures": c.queue.NumRequeues(k) + 1}).
			Warn("a status could not be written, will be tried again")
	}
	c.queue.AddRateLimited(k)
	return true
}

// service returns a Service that a valid Mapping names, or nil.
func (c *Controller) service(namespace, name string) *corev1.Service {
	entry := c.Cache.Services().Get(namespace, name)
	if entry == nil {
		return nil
	}
	s, _ := entry.Object.(*corev1.Service)
	return s
}
