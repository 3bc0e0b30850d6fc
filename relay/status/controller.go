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

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/relay/watchcache"
)

const (
	workers = 4
	// Retries of failed writes back off between these.
	minBackoff = 50 * time.Millisecond
	maxBackoff = time.Minute
	// pause is the shortest interval between looks at changes, so that bursts are handled together. It is longer after a slow
	// look: looking may only take a share of a processor.
	pause      = 100 * time.Millisecond
	pauseShare = 4
)

// Values of Grants. The config of a gateway has the same.
const (
	// GrantsOpen needs PortGrants only for addresses that one covers.
	GrantsOpen = "open"
	// GrantsReport needs none: gateways report what GrantsRequired would refuse.
	GrantsReport = "report"
	// GrantsRequired needs PortGrants for all addresses.
	GrantsRequired = "required"
)

// Component is the source of Events.
const Component = "smartnat-relay"

// Recorder writes Events.
type Recorder interface {
	Event(about runtime.Object, eventType, reason, note string)
}

// Options configure a Controller.
type Options struct {
	// Cache is the relay's view of the cluster. Its Mappings have the current status.
	Cache    *watchcache.Cache
	Mappings Mappings
	Recorder Recorder
	// Events, if set, gets those about deleted Mappings, of which one of all relays must be kept.
	Events func(namespace string) Events
	// Leases track which gateways are alive. Without them no gateway is ever forgotten.
	Leases *Leases
	// Grants says which addresses need a PortGrant: GrantsOpen by default.
	Grants string
	// InstanceTimeout is how long a silent gateway still counts.
	InstanceTimeout time.Duration
	Log             logrus.FieldLogger
}

// Controller writes the conditions of all Mappings.
type Controller struct {
	Options
	view view
	// granted is where the PortGrants of view come from. Only follow uses it.
	granted grantSource
	aging   *aging
	queue   workqueue.TypedRateLimitingInterface[key]
	now     func() metav1.Time
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

// Run runs the Controller until ctx ends.
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

// follow watches the cache, and queues the Mappings affected by changes.
func (c *Controller) follow(ctx context.Context) {
	for ctx.Err() == nil {
		c.regrant()
		entries, version := c.Cache.Mappings().List()
		c.enqueue(c.view.replace(entries))
		for {
			started := time.Now()
			next, mappings, services, err := c.catchUp(version)
			if err != nil {
				break // too far behind, list again
			}
			version = next
			rest := max(pause, pauseShare*time.Since(started))
			select {
			case <-ctx.Done():
				return
			case <-mappings:
			case <-services:
			case <-c.granted.portGrants:
			case <-c.granted.namespaces:
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(rest):
			}
		}
	}
}

// grantSource has the channels that are closed when PortGrants or namespaces change.
type grantSource struct{ portGrants, namespaces <-chan struct{} }

// changed reports whether either changed.
func (s grantSource) changed() bool {
	select {
	case <-s.portGrants:
		return true
	case <-s.namespaces:
		return true
	default:
		return false
	}
}

// regrant reads the PortGrants and namespaces, and queues the Mappings that they affect.
func (c *Controller) regrant() {
	c.granted = grantSource{c.Cache.PortGrants().Changed(), c.Cache.Namespaces().Changed()}
	if c.Grants == GrantsReport {
		return
	}
	c.enqueue(c.view.regrant(listOf[*v1alpha1.PortGrant](c.Cache.PortGrants()), listOf[*corev1.Namespace](c.Cache.Namespaces()), c.Grants == GrantsRequired))
}

// listOf returns all visible objects of a kind.
func listOf[P any](r *watchcache.Resource) []P {
	entries, _ := r.List()
	all := make([]P, 0, len(entries))
	for _, e := range entries {
		if object, ok := e.Object.(P); ok {
			all = append(all, object)
		}
	}
	return all
}

// catchUp processes the changes since a version. The channels are closed when there are more changes of Mappings and of
// Services.
func (c *Controller) catchUp(version watchcache.Version) (_ watchcache.Version, moreMappings, moreServices <-chan struct{}, err error) {
	// Services come after Mappings, because a Service only becomes visible once a Mapping names it.
	mappings, next, moreMappings, err := c.Cache.Mappings().Since(version)
	if err != nil {
		return 0, nil, nil, fmt.Errorf("changes of Mappings: %w", err)
	}
	services, _, moreServices, err := c.Cache.Services().Since(version)
	if err != nil {
		return 0, nil, nil, fmt.Errorf("changes of Services: %w", err)
	}
	// A namespace becomes visible before its first Mapping.
	if c.granted.changed() {
		c.regrant()
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
		// The Mapping changed meanwhile, often because another relay wrote the same status first.
		c.Log.WithError(err).Debug("conflict while writing a status, will retry")
	default:
		c.Log.WithError(err).WithFields(logrus.Fields{"mapping": k.String(), "failures": c.queue.NumRequeues(k) + 1}).
			Warn("cannot write a status, will retry")
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
