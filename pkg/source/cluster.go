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
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/generated/clientset/versioned"
	"github.com/smartnat/smartnat/pkg/calc"
)

// cluster is a Source that speaks the Kubernetes API, to the API server itself or to a relay.
type cluster struct {
	informers []cache.SharedIndexInformer
	handlers  []cache.DoneChecker
	synced    atomic.Bool
	changed   func()
	contact   *contact
	log       logrus.FieldLogger
}

func newClusterFor(cfg *rest.Config, changed func(), log logrus.FieldLogger) (*cluster, error) {
	httpClient, err := rest.HTTPClientFor(cfg)
	if err != nil {
		return nil, fmt.Errorf("source: %w", err)
	}
	mappings, err := versioned.NewForConfigAndClient(cfg, httpClient)
	if err != nil {
		return nil, fmt.Errorf("source: %w", err)
	}
	core := rest.CopyConfig(cfg)
	core.ContentType = runtime.ContentTypeProtobuf
	core.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	kube, err := kubernetes.NewForConfigAndClient(core, httpClient)
	if err != nil {
		return nil, fmt.Errorf("source: %w", err)
	}
	return newCluster(mappings, kube, changed, log.WithField("server", cfg.Host))
}

func newCluster(mappings versioned.Interface, kube kubernetes.Interface, changed func(), log logrus.FieldLogger) (*cluster, error) {
	c := &cluster{changed: changed, contact: newContact(log), log: log}
	all := metav1.NamespaceAll
	m, s, e := mappings.SmartnatV1alpha1().Mappings(all), kube.CoreV1().Services(all), kube.DiscoveryV1().EndpointSlices(all)
	for _, informer := range []cache.SharedIndexInformer{
		cache.NewSharedIndexInformer(listWatch(c.contact, "mappings", mappings, m.List, m.Watch), &v1alpha1.Mapping{}, 0, nil),
		cache.NewSharedIndexInformer(listWatch(c.contact, "services", kube, s.List, s.Watch), &corev1.Service{}, 0, nil),
		cache.NewSharedIndexInformer(listWatch(c.contact, "endpointslices", kube, e.List, e.Watch), &discoveryv1.EndpointSlice{}, 0, nil),
	} {
		if err := c.add(informer); err != nil {
			return nil, fmt.Errorf("source: %w", err)
		}
	}
	return c, nil
}

func (c *cluster) add(informer cache.SharedIndexInformer) error {
	if err := informer.SetTransform(func(object any) (any, error) { strip(object); return object, nil }); err != nil {
		return err
	}
	// What lists and watches return is told to contact; client-go would log each retry.
	silent := func(_ context.Context, _ *cache.Reflector, err error) { c.log.WithError(err).Debug("watch ended") }
	if err := informer.SetWatchErrorHandlerWithContext(silent); err != nil {
		return err
	}
	handler, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { c.event() },
		DeleteFunc: func(any) { c.event() },
		UpdateFunc: func(old, current any) {
			if differ(old, current) {
				c.event()
			}
		},
	})
	if err != nil {
		return err
	}
	c.informers = append(c.informers, informer)
	c.handlers = append(c.handlers, handler.HasSyncedChecker())
	return nil
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
		c.log.Info("all objects have been read")
		c.changed()
	}
	running.Wait()
	return nil
}

// HasSynced implements Source.
func (c *cluster) HasSynced() bool { return c.synced.Load() }

// Snapshot implements Source.
func (c *cluster) Snapshot() calc.Snapshot {
	var s calc.Snapshot
	for _, informer := range c.informers {
		for _, object := range informer.GetStore().List() {
			put(&s, object)
		}
	}
	return s
}

// put adds an object to the Snapshot.
func put(s *calc.Snapshot, object any) {
	switch o := object.(type) {
	case *v1alpha1.Mapping:
		s.Mappings = append(s.Mappings, o)
	case *corev1.Service:
		s.Services = append(s.Services, o)
	case *discoveryv1.EndpointSlice:
		s.EndpointSlices = append(s.EndpointSlices, o)
	}
}

// listWatch lists and watches through a typed client, and tells contact how it went.
func listWatch[L runtime.Object](
	c *contact, resource string, client any,
	list func(context.Context, metav1.ListOptions) (L, error),
	watcher func(context.Context, metav1.ListOptions) (watch.Interface, error),
) cache.ListerWatcher {
	return cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
			objects, err := list(ctx, options)
			c.observe(ctx, resource, "list", err)
			return objects, err
		},
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			w, err := watcher(ctx, options)
			c.observe(ctx, resource, "watch", err)
			return w, err
		},
	}, client)
}
