// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	clientfeatures "k8s.io/client-go/features"
	clientfeaturestesting "k8s.io/client-go/features/testing"
	"k8s.io/client-go/informers"
	toolscache "k8s.io/client-go/tools/cache"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
)

// stores are the caches of unmodified client-go informers that read a relay.
type stores []toolscache.SharedIndexInformer

func startInformers(t *testing.T, f *fixture) stores {
	t.Helper()
	factory := informers.NewSharedInformerFactory(f.coreClient(t), 0)
	mappings := f.smartnatClient(t).SmartnatV1alpha1().Mappings("")
	mappingInformer := toolscache.NewSharedIndexInformer(&toolscache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			return mappings.List(ctx, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			return mappings.Watch(ctx, o)
		},
	}, &v1alpha1.Mapping{}, 0, nil)
	all := stores{mappingInformer, factory.Core().V1().Services().Informer(), factory.Discovery().V1().EndpointSlices().Informer()}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{}, len(all))
	for _, informer := range all {
		go func() { informer.RunWithContext(ctx); done <- struct{}{} }()
	}
	t.Cleanup(func() {
		cancel()
		for range all {
			<-done
		}
	})
	eventually(t, "informers to sync", func() bool {
		return !slices.ContainsFunc(all, func(i toolscache.SharedIndexInformer) bool { return !i.HasSynced() })
	})
	return all
}

func (s stores) keys() string {
	var kinds []string
	for _, informer := range s {
		keys := informer.GetStore().ListKeys()
		slices.Sort(keys)
		kinds = append(kinds, strings.Join(keys, " "))
	}
	return strings.Join(kinds, " | ")
}

func (s stores) await(t *testing.T, want string) {
	t.Helper()
	eventually(t, fmt.Sprintf("informers to hold %q; they hold %q", want, s.keys()), func() bool { return s.keys() == want })
}

// bothHandshakes runs a test with both ways in which client-go begins: a streaming list (WatchList), or a list.
func bothHandshakes(t *testing.T, test func(*testing.T)) {
	for _, streamed := range []bool{true, false} {
		t.Run(fmt.Sprintf("WatchList=%v", streamed), func(t *testing.T) {
			clientfeaturestesting.SetFeatureDuringTest(t, clientfeatures.WatchListClient, streamed)
			test(t)
		})
	}
}

func TestInformersFollowWhatIsMapped(t *testing.T) {
	bothHandshakes(t, func(t *testing.T) {
		f := newFixture(t, nil)
		f.populate(t)
		s := startInformers(t, f)
		s.await(t, "shop/web | shop/mapped | shop/mapped-1")

		ctx := context.Background()
		mappings := f.smartnat.SmartnatV1alpha1().Mappings("shop")
		if _, err := mappings.Update(ctx, newMapping("shop", "web", "hidden"), metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		s.await(t, "shop/web | shop/hidden | shop/hidden-1")
		if err := mappings.Delete(ctx, "web", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		s.await(t, " |  | ")
	})
}

func TestInformersSurviveARestart(t *testing.T) {
	bothHandshakes(t, func(t *testing.T) {
		first := newFixture(t, nil)
		first.populate(t)
		s := startInformers(t, first)
		s.await(t, "shop/web | shop/mapped | shop/mapped-1")
		before, err := first.coreClient(t).CoreV1().Services("").List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}

		first.stop()
		ctx := context.Background()
		if err := first.core.CoreV1().Services("shop").Delete(ctx, "mapped", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		second := startRelay(t, first.core, first.smartnat, first.address, nil)

		// The deletion is in no history, so a client must list again to learn it.
		s.await(t, "shop/web |  | shop/mapped-1")
		_, err = second.coreClient(t).CoreV1().Services("").Watch(t.Context(), metav1.ListOptions{ResourceVersion: before.ResourceVersion})
		if !apierrors.IsResourceExpired(err) {
			t.Errorf("watch from a version of the old process: %v, want 410 Expired", err)
		}
	})
}
