// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"sync"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/generated/clientset/versioned"
	"github.com/smartnat/smartnat/relay/watchcache"
)

// follower is the store of a stock reflector of one kind. It fails the test on events that a replica must not send.
type follower struct {
	world *world
	kind  int
	view  watchcache.View

	mu   sync.Mutex
	held map[string]watchcache.Object
	// at is the version of the last list or event.
	at             watchcache.Version
	replaced, told int
}

var _ cache.ReflectorStore = &follower{}

func newFollower(w *world, kind int, view watchcache.View) *follower {
	return &follower{world: w, kind: kind, view: view, held: map[string]watchcache.Object{}}
}

// run follows the relay until ctx ends.
func (f *follower) run(ctx context.Context, url string) {
	lw, expected := f.listerWatcher(&rest.Config{Host: url, QPS: -1})
	if lw == nil {
		return
	}
	log := logr.Discard()
	// Connections break often, so retry fast.
	backoff := &wait.Backoff{Duration: time.Millisecond, Factor: 1, Jitter: 1, Steps: 1 << 30, Cap: 2 * time.Millisecond}
	cache.NewReflectorWithOptions(lw, expected, f, cache.ReflectorOptions{Logger: &log, Backoff: backoff}).RunWithContext(ctx)
}

func (f *follower) listerWatcher(config *rest.Config) (cache.ListerWatcher, runtime.Object) {
	var profile string
	if f.view == watchcache.ForGateway {
		profile = ";profile=" + v1alpha1.GatewayProfile
	}
	inJSON := *config
	inJSON.AcceptContentTypes = runtime.ContentTypeJSON + profile
	mappings, err := versioned.NewForConfig(&inJSON)
	if err != nil {
		f.world.Error(err)
		return nil, nil
	}
	inProtobuf := *config
	inProtobuf.ContentType, inProtobuf.AcceptContentTypes = runtime.ContentTypeProtobuf, runtime.ContentTypeProtobuf+profile
	core, err := kubernetes.NewForConfig(&inProtobuf)
	if err != nil {
		f.world.Error(err)
		return nil, nil
	}
	switch f.kind {
	case 0:
		return listWatch(mappings.SmartnatV1alpha1().Mappings("")), &v1alpha1.Mapping{}
	case 1:
		return listWatch(core.CoreV1().Services("")), &corev1.Service{}
	default:
		return listWatch(core.DiscoveryV1().EndpointSlices("")), &discoveryv1.EndpointSlice{}
	}
}

func listWatch[L runtime.Object](client interface {
	List(context.Context, metav1.ListOptions) (L, error)
	Watch(context.Context, metav1.ListOptions) (watch.Interface, error)
}) cache.ListerWatcher {
	return &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
			return client.List(ctx, options)
		},
		WatchFuncWithContext: client.Watch,
	}
}

// state returns the held objects in the form of filtertest.Visible.
func (f *follower) state() map[string]watchcache.Object {
	f.mu.Lock()
	defer f.mu.Unlock()
	state := map[string]watchcache.Object{}
	for name, obj := range f.held {
		obj = obj.DeepCopyObject().(watchcache.Object)
		obj.SetResourceVersion("")
		obj.GetObjectKind().SetGroupVersionKind(f.gvk())
		state[name] = obj
	}
	return state
}

func (f *follower) gvk() schema.GroupVersionKind {
	return []schema.GroupVersionKind{
		v1alpha1.SchemeGroupVersion.WithKind("Mapping"), corev1.SchemeGroupVersion.WithKind("Service"),
		discoveryv1.SchemeGroupVersion.WithKind("EndpointSlice"),
	}[f.kind]
}

func (f *follower) Add(obj any) error    { return f.tell(watch.Added, obj) }
func (f *follower) Update(obj any) error { return f.tell(watch.Modified, obj) }
func (f *follower) Delete(obj any) error { return f.tell(watch.Deleted, obj) }
func (f *follower) Resync() error        { return nil }

// Replace starts over with a list, which may come from another replica.
func (f *follower) Replace(objects []any, version string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	at, err := watchcache.ParseVersion(version)
	if err != nil {
		return err
	}
	f.replaced++
	f.at, f.held = at, map[string]watchcache.Object{}
	for _, o := range objects {
		obj := o.(watchcache.Object)
		f.held[obj.GetName()] = obj
	}
	return nil
}

// tell applies an event. The replica must not have published another event of the kind since the last one.
func (f *follower) tell(t watch.EventType, o any) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	obj := o.(watchcache.Object)
	version, err := watchcache.ParseVersion(obj.GetResourceVersion())
	if err != nil {
		return err
	}
	name := obj.GetName()
	held, holds := f.held[name]
	if (t == watch.Added) == holds {
		f.world.Errorf("kind %d: %s %s at %d, while %v is held", f.kind, t, name, version, held)
	}
	if next, known := f.world.next(f.kind, f.view, f.at); known && next != version {
		f.world.Errorf("kind %d: %s %s at %d after %d, the next is %d", f.kind, t, name, version, f.at, next)
	}
	f.told++
	f.at = version
	if t == watch.Deleted {
		delete(f.held, name)
	} else {
		f.held[name] = obj
	}
	return nil
}

// next returns the version of the next event of a kind that is visible in a view, if the replica that assigned after still
// runs.
func (w *world) next(kind int, view watchcache.View, after watchcache.Version) (watchcache.Version, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, r := range w.replicas {
		events, _, _, err := kindsOf(r.cache)[kind].Since(after)
		if err != nil {
			continue
		}
		for _, e := range events {
			if !e.Minor || view == watchcache.Whole {
				return e.Version, true
			}
		}
	}
	return 0, false
}
