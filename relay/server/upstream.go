// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
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

// Run fills a cache with what the cluster holds, until ctx ends.
func (u Upstream) Run(ctx context.Context, cache *watchcache.Cache) {
	mappings := u.SmartNat.SmartnatV1alpha1().Mappings(metav1.NamespaceAll)
	services := u.Core.CoreV1().Services(metav1.NamespaceAll)
	slices := u.Core.DiscoveryV1().EndpointSlices(metav1.NamespaceAll)
	var wg sync.WaitGroup
	wg.Go(func() { reflect(ctx, mappings.List, mappings.Watch, &v1alpha1.Mapping{}, cache.Mappings(), u.SmartNat) })
	wg.Go(func() { reflect(ctx, services.List, services.Watch, &corev1.Service{}, cache.Services(), u.Core) })
	wg.Go(func() {
		reflect(ctx, slices.List, slices.Watch, &discoveryv1.EndpointSlice{}, cache.EndpointSlices(), u.Core)
	})
	wg.Wait()
}

// reflect keeps one kind up to date. Client says which ways of watching it can do: fakes cannot do all.
func reflect[L runtime.Object](
	ctx context.Context,
	list func(context.Context, metav1.ListOptions) (L, error),
	watchFunc func(context.Context, metav1.ListOptions) (watch.Interface, error),
	expected runtime.Object, into *watchcache.Resource, client any,
) {
	lw := &toolscache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
			return list(ctx, options)
		},
		WatchFuncWithContext: watchFunc,
	}
	toolscache.NewReflectorWithOptions(toolscache.ToListWatcherWithWatchListSemantics(lw, client), expected, into.Store(),
		toolscache.ReflectorOptions{}).RunWithContext(ctx)
}
