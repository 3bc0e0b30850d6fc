// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr/funcr"
	"github.com/sirupsen/logrus"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	toolscache "k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/smartnat/smartnat/apis/kinds"
	"github.com/smartnat/smartnat/relay/watchcache"
)

// Upstream is the cluster that the relay mirrors. It returns the client of a kind, for all namespaces.
type Upstream func(*kinds.Kind) listerWatcher

// listerWatcher lists and watches one kind. A fake may state that it does not support WatchList, by the method that
// client-go looks for.
type listerWatcher interface {
	List(ctx context.Context, options metav1.ListOptions) (runtime.Object, error)
	Watch(ctx context.Context, options metav1.ListOptions) (watch.Interface, error)
}

// run keeps cache in sync with the cluster until ctx ends.
func (u Upstream) run(ctx context.Context, cache *watchcache.Cache, m *metrics, log logrus.FieldLogger) {
	ctx = klog.NewContext(ctx, funcr.New(func(_, line string) { log.Debug(line) }, funcr.Options{}))
	var wg sync.WaitGroup
	for _, r := range cache.Resources() {
		o := &observer{metrics: m, resource: r.Kind().Resource, log: log}
		wg.Go(func() { reflect(ctx, u(r.Kind()), r, o) })
	}
	wg.Wait()
}

// reflect keeps one kind in sync.
func reflect(ctx context.Context, from listerWatcher, into *watchcache.Resource, o *observer) {
	kind := into.Kind()
	mirror(ctx, from, kind.New(), kind.Is, into.Store(), o)
}

// mirror keeps a store in sync with objects of one type.
func mirror(ctx context.Context, from listerWatcher, object runtime.Object, is func(any) bool, into toolscache.ReflectorStore, o *observer) {
	lw := &toolscache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
			objects, err := from.List(ctx, options)
			if err == nil {
				err = isWhole(objects)
			}
			o.asked("list", err)
			return objects, err
		},
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			w, err := from.Watch(ctx, options)
			o.asked("watch", err)
			if err != nil {
				return nil, err
			}
			return o.listen(w, is), nil
		},
	}
	// Retry after at most 5 s. client-go's default backoff grows to about a minute, which suits thousands of clients;
	// relays are few, and gateways get no data that a relay does not have.
	backoff := &wait.Backoff{Duration: 500 * time.Millisecond, Factor: 2, Steps: math.MaxInt, Cap: 3 * time.Second, Jitter: 2. / 3}
	toolscache.NewReflectorWithOptions(toolscache.ToListWatcherWithWatchListSemantics(lw, from), object, into,
		toolscache.ReflectorOptions{Backoff: backoff}).RunWithContext(ctx)
}

// isWhole refuses a response that client-go would take for an empty list, such as an object of another kind: all gateways
// would delete everything.
func isWhole(list runtime.Object) error {
	header, err := apimeta.ListAccessor(list)
	if err == nil && header.GetResourceVersion() == "" {
		err = errors.New("the API server did not answer with a list")
	}
	return err
}

// observer counts and logs the traffic of one kind.
type observer struct {
	*metrics
	resource string
	log      logrus.FieldLogger
	failing  atomic.Bool
	// strange is true from a watch that ended for an unexpected event until one ends normally. It limits the log to one
	// line.
	strange atomic.Bool
}

// asked counts a request to the API server. It logs the first failure and the recovery: the operator must see that the
// relay serves old data.
func (o *observer) asked(verb string, err error) {
	log := o.log.WithField("resource", o.resource)
	if err != nil {
		o.upstreamRequests.WithLabelValues(o.resource, verb, "error").Inc()
		if !o.failing.Swap(true) {
			log.WithError(err).Warn("lost connection to API server, serving stale data")
		}
		return
	}
	o.upstreamRequests.WithLabelValues(o.resource, verb, "ok").Inc()
	o.upstreamContact.WithLabelValues(o.resource).SetToCurrentTime()
	if o.failing.Swap(false) {
		log.Info("reconnected to API server")
	}
}

// listen counts and forwards the events of a watch, until either side ends it.
func (o *observer) listen(w watch.Interface, is func(any) bool) watch.Interface {
	events := make(chan watch.Event)
	counted := watch.NewProxyWatcher(events)
	go func() {
		defer close(events)
		defer w.Stop()
		for {
			select {
			case <-counted.StopChan():
				return
			case e, ok := <-w.ResultChan():
				if !ok {
					o.strange.Store(false)
					return
				}
				select {
				case events <- o.heard(e, is):
				case <-counted.StopChan():
					return
				}
			}
		}
	}()
	return counted
}

// heard counts an event. client-go ignores an event about an object of another kind. heard replaces it with an error, so
// that the reflector lists again and learns the change that the event may have meant.
func (o *observer) heard(e watch.Event, is func(any) bool) watch.Event {
	counted := strings.ToLower(string(e.Type))
	if e.Type != watch.Error && !is(e.Object) {
		counted = "unexpected"
		err := fmt.Errorf("unexpected watch event %q with a %T", e.Type, e.Object)
		if !o.strange.Swap(true) {
			o.log.WithField("resource", o.resource).WithError(err).Warn("unexpected watch event, listing again")
		}
		e = watch.Event{Type: watch.Error, Object: &apierrors.NewInternalError(err).ErrStatus}
	}
	o.upstreamEvents.WithLabelValues(o.resource, counted).Inc()
	o.upstreamContact.WithLabelValues(o.resource).SetToCurrentTime()
	return e
}
