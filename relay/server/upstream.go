// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	toolscache "k8s.io/client-go/tools/cache"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/generated/clientset/versioned"
	"github.com/smartnat/smartnat/relay/watchcache"
)

// Upstream is the cluster that the relay reads.
type Upstream struct {
	Core     kubernetes.Interface
	SmartNat versioned.Interface
}

// run fills a cache with what the cluster holds, until ctx ends.
func (u Upstream) run(ctx context.Context, cache *watchcache.Cache, m *metrics) {
	mappings := u.SmartNat.SmartnatV1alpha1().Mappings(metav1.NamespaceAll)
	services := u.Core.CoreV1().Services(metav1.NamespaceAll)
	slices := u.Core.DiscoveryV1().EndpointSlices(metav1.NamespaceAll)
	var wg sync.WaitGroup
	wg.Go(func() {
		reflect(ctx, mappings.List, mappings.Watch, &v1alpha1.Mapping{}, cache.Mappings(), u.SmartNat, m.of("mappings"))
	})
	wg.Go(func() {
		reflect(ctx, services.List, services.Watch, &corev1.Service{}, cache.Services(), u.Core, m.of("services"))
	})
	wg.Go(func() {
		reflect(ctx, slices.List, slices.Watch, &discoveryv1.EndpointSlice{}, cache.EndpointSlices(), u.Core, m.of("endpointslices"))
	})
	wg.Wait()
}

// reflect keeps one kind up to date. Client says which ways of watching it can do: fakes cannot do all.
func reflect[L runtime.Object](
	ctx context.Context,
	list func(context.Context, metav1.ListOptions) (L, error),
	watchFunc func(context.Context, metav1.ListOptions) (watch.Interface, error),
	expected runtime.Object, into *watchcache.Resource, client any, m upstreamMetrics,
) {
	lw := &toolscache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
			objects, err := list(ctx, options)
			m.asked("list", err)
			return objects, err
		},
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			w, err := watchFunc(ctx, options)
			m.asked("watch", err)
			if err != nil {
				return nil, err
			}
			return m.listen(w), nil
		},
	}
	toolscache.NewReflectorWithOptions(toolscache.ToListWatcherWithWatchListSemantics(lw, client), expected, into.Store(),
		toolscache.ReflectorOptions{}).RunWithContext(ctx)
}

// upstreamMetrics are those of one kind.
type upstreamMetrics struct {
	*metrics
	resource string
}

func (m *metrics) of(resource string) upstreamMetrics { return upstreamMetrics{m, resource} }

// asked counts a request to the cluster. One that failed says nothing of when the cluster was heard of last.
func (m upstreamMetrics) asked(verb string, err error) {
	result := "ok"
	if err != nil {
		result = "error"
	} else {
		m.upstreamContact.WithLabelValues(m.resource).SetToCurrentTime()
	}
	m.upstreamRequests.WithLabelValues(m.resource, verb, result).Inc()
}

// listen counts the events of a watch and changes none. It ends with the watch, whoever ends that.
func (m upstreamMetrics) listen(w watch.Interface) watch.Interface {
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
					return
				}
				m.upstreamEvents.WithLabelValues(m.resource, strings.ToLower(string(e.Type))).Inc()
				m.upstreamContact.WithLabelValues(m.resource).SetToCurrentTime()
				select {
				case events <- e:
				case <-counted.StopChan():
					return
				}
			}
		}
	}()
	return counted
}
