// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package source

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/go-logr/logr/funcr"
	"github.com/sirupsen/logrus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/smartnat/smartnat/apis/kinds"
	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/pkg/objects"
)

// cluster is a Source that uses the Kubernetes API of an API server or a relay.
type cluster struct {
	informers []cache.SharedIndexInformer
	handlers  []cache.DoneChecker
	store     objects.Store
	validator validator
	// arrivals holds the Mappings that wait for their Service or endpoints.
	arriving sync.Mutex
	arrivals map[types.NamespacedName]*arrival
	synced   atomic.Bool
	changed  func()
	contact  *contact
	// servers is nil unless the objects come from a relay.
	servers *servers
	log     logrus.FieldLogger
}

func newCluster(cfg *rest.Config, changed func(), log logrus.FieldLogger) (*cluster, error) {
	httpClient, err := rest.HTTPClientFor(cfg)
	if err != nil {
		return nil, fmt.Errorf("source: %w", err)
	}
	codecs := newCodecs()
	log = log.WithField("server", cfg.Host)
	c := &cluster{
		arrivals: map[types.NamespacedName]*arrival{}, changed: changed, contact: newContact(log), validator: validator{log: log}, log: log,
	}
	for _, r := range resources() {
		client, err := newResourceClient(cfg, httpClient, codecs, r, c.contact)
		if err != nil {
			return nil, fmt.Errorf("source: %s: %w", r.Resource, err)
		}
		if err := c.add(r.Kind, cache.NewSharedIndexInformer(client.listerWatcher(), r.object, 0, nil)); err != nil {
			return nil, fmt.Errorf("source: %s: %w", r.Resource, err)
		}
	}
	return c, nil
}

func (c *cluster) add(kind *kinds.Kind, informer cache.SharedIndexInformer) error {
	known := informer.GetStore()
	if err := informer.SetTransform(func(object any) (any, error) {
		if !kind.Is(object) {
			return object, nil
		}
		return unlessKnown(known, kind, strip(kind, object.(kinds.Object))), nil
	}); err != nil {
		return err
	}
	// contact reports errors of lists and watches; client-go would log each retry.
	silent := func(_ context.Context, _ *cache.Reflector, err error) { c.log.WithError(err).Debug("watch ended") }
	if err := informer.SetWatchErrorHandlerWithContext(silent); err != nil {
		return err
	}
	handler, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: c.set,
		UpdateFunc: func(old, current any) {
			if old != current {
				c.set(current)
			}
		},
		DeleteFunc: c.remove,
	})
	if err != nil {
		return err
	}
	c.informers = append(c.informers, informer)
	c.handlers = append(c.handlers, handler.HasSyncedChecker())
	return nil
}

// unlessKnown returns the known object if the current one has the same content. A relist, or a change of fields that
// gateways do not use, then takes no memory and causes no event.
func unlessKnown(known cache.Store, kind *kinds.Kind, current kinds.Object) any {
	if old, exists, err := known.Get(current); err == nil && exists && kind.Is(old) && kind.Same(old.(kinds.Object), current) {
		return old
	}
	return current
}

// set stores an object. A rejected object replaces its earlier version by nothing.
func (c *cluster) set(object any) {
	o, ok := object.(kinds.Object)
	if !ok || !c.validator.accept(o) {
		c.drop(object)
		return
	}
	if m, ok := o.(*v1alpha1.Mapping); ok {
		if c.arrive(m) {
			c.event()
		}
		return
	}
	c.store.Set(o)
	if service, awaited := awaitedOf(o); awaited {
		c.complete(service)
	}
	c.event()
}

func (c *cluster) remove(object any) {
	if last, ok := object.(cache.DeletedFinalStateUnknown); ok {
		object = last.Obj
	}
	if meta, ok := object.(metav1.Object); ok {
		c.validator.forget(meta)
	}
	c.drop(object)
}

// drop removes an object, including a Mapping that still waits.
func (c *cluster) drop(object any) {
	if m, ok := object.(*v1alpha1.Mapping); ok {
		c.arriving.Lock()
		c.depart(types.NamespacedName{Namespace: m.Namespace, Name: m.Name})
		c.arriving.Unlock()
	}
	if o, ok := object.(kinds.Object); ok {
		c.store.Remove(o)
	}
	c.event()
}

func (c *cluster) event() {
	if c.synced.Load() {
		c.changed()
	}
}

// Run implements Source.
func (c *cluster) Run(ctx context.Context) error {
	ctx = klog.NewContext(ctx, funcr.New(func(_, line string) { c.log.Debug(line) }, funcr.Options{}))
	var running sync.WaitGroup
	for _, informer := range c.informers {
		running.Go(func() { informer.RunWithContext(ctx) })
	}
	if cache.WaitFor(ctx, "", c.handlers...) {
		c.synced.Store(true)
		c.log.Info("synced all objects")
		c.changed()
	}
	running.Wait()
	return nil
}

// HasSynced implements Source.
func (c *cluster) HasSynced() bool { return c.synced.Load() }

// Snapshot implements Source.
func (c *cluster) Snapshot() objects.Snapshot { return c.store.Snapshot() }

// Contact implements Source.
func (c *cluster) Contact() Contact {
	contact := c.contact.get()
	contact.Rejected = c.validator.count()
	contact.Servers = c.servers.list()
	return contact
}
