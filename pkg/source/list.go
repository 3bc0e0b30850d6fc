// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package source

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"slices"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/smartnat/smartnat/apis/kinds"
	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
)

// resource is a kind and an empty object and list of it.
type resource struct {
	*kinds.Kind
	object, list runtime.Object
}

func resources() (all []resource) {
	for _, kind := range kinds.All() {
		all = append(all, resource{kind, kind.New(), kind.NewList()})
	}
	return all
}

// newScheme registers only the kinds that a gateway uses. The clientsets would load the types of all kinds into memory.
func newScheme() *runtime.Scheme {
	scheme := runtime.NewScheme()
	kinds.AddToScheme(scheme, kinds.All())
	scheme.AddKnownTypes(corev1.SchemeGroupVersion, &corev1.List{})
	return scheme
}

// resourceClient lists and watches a resource in all namespaces and reports each result to contact.
type resourceClient struct {
	resource
	rest.Interface
	contact *contact
	// served is set once a server has answered for the kind.
	served atomic.Bool
}

func newResourceClient(cfg *rest.Config, httpClient *http.Client, codecs codecs, r resource, c *contact) (*resourceClient, error) {
	group, path := r.GroupVersion(), "/apis"
	if group.Group == corev1.GroupName {
		path = "/api"
	}
	// With this profile, a relay sends only the fields that gateways use.
	const profile = ";profile=" + v1alpha1.GatewayProfile
	accept := runtime.ContentTypeJSON + profile
	if r.Protobuf {
		accept = runtime.ContentTypeProtobuf + profile + "," + accept
	}
	cfg = rest.CopyConfig(cfg)
	cfg.APIPath = path
	cfg.ContentConfig = rest.ContentConfig{AcceptContentTypes: accept, GroupVersion: &group, NegotiatedSerializer: codecs}
	client, err := rest.RESTClientForConfigAndClient(cfg, httpClient)
	if err != nil {
		return nil, err
	}
	return &resourceClient{resource: r, Interface: client, contact: c}, nil
}

// listerWatcher returns the ListerWatcher of an informer.
func (c *resourceClient) listerWatcher() cache.ListerWatcher {
	return cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
			list, _, err := persist(ctx, options, math.MaxInt, c.list)
			return list, err
		},
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			tries := 10 // Half a minute, to resume without another list if possible.
			if options.SendInitialEvents != nil {
				tries = 1
			}
			w, failed, err := persist(ctx, options, tries, c.watch)
			if failed {
				// After some errors client-go retries at once, or sleeps without watching its context. After any other
				// error it lists, and list retries with a backoff.
				err = errors.New(err.Error())
			}
			return w, err
		},
	}, c.Interface)
}

// list also reports whether the error is a failure; an error that is part of the handshake is not.
func (c *resourceClient) list(ctx context.Context, options metav1.ListOptions) (_ runtime.Object, failed bool, _ error) {
	ctx, by := whoAnswers(ctx)
	list, err := c.request(options).Do(ctx).Get()
	switch {
	case err == nil:
		if err = c.checkList(list); err == nil {
			c.served.Store(true)
		}
	case c.isUnknown(ctx, err):
		return c.emptyList(), false, nil
	}
	return list, c.contact.recordResult(ctx, by, c.Resource, "list", options, err), err
}

// watch returns the same as list.
func (c *resourceClient) watch(ctx context.Context, options metav1.ListOptions) (_ watch.Interface, failed bool, _ error) {
	options.Watch = true
	ctx, by := whoAnswers(ctx)
	w, err := c.request(options).Watch(ctx)
	if c.isUnknown(ctx, err) {
		if options.SendInitialEvents != nil {
			return nil, false, err // client-go lists then
		}
		return watchUnknown(ctx), false, nil
	}
	if failed := c.contact.recordResult(ctx, by, c.Resource, "watch", options, err); err != nil {
		return nil, failed, err
	}
	c.served.Store(true)
	tell := func(err error) bool { return c.contact.recordResult(ctx, by, c.Resource, "events", options, err) }
	return newCheckedWatch(c.resource, w, options.SendInitialEvents != nil, tell), false, nil
}

// unknownFor is the time after which a server that does not know a kind is asked again. It may have been upgraded.
const unknownFor = time.Minute

// isUnknown reports whether the server is of a version that does not know the kind: it says so itself, in its list of kinds. The error
// alone proves nothing. A proxy answers 404 while the relay is away, and a relay that asks the cluster for permission first answers 403.
// Once served, a kind stays known: its objects must not vanish with an older server.
func (c *resourceClient) isUnknown(ctx context.Context, err error) bool {
	if !c.Later || c.served.Load() || !apierrors.IsNotFound(err) && !apierrors.IsForbidden(err) {
		return false
	}
	ctx, _ = whoAnswers(ctx) // the answer says nothing about the server that refused
	path := "/apis/"
	if c.Group == corev1.GroupName {
		path = "/api/"
	}
	text, err := c.Get().AbsPath(path+c.GroupVersion().String()).SetHeader("Accept", runtime.ContentTypeJSON).Do(ctx).Raw()
	if err != nil {
		return false
	}
	var known metav1.APIResourceList
	return json.Unmarshal(text, &known) == nil && len(known.APIResources) > 0 &&
		!slices.ContainsFunc(known.APIResources, func(r metav1.APIResource) bool { return r.Name == c.Resource })
}

// emptyList returns a list without objects. A watch from its version begins with all objects.
func (c *resourceClient) emptyList() runtime.Object {
	list := c.NewList()
	if header, err := meta.ListAccessor(list); err == nil {
		header.SetResourceVersion("0")
	}
	return list
}

// watchUnknown returns a watch without events.
func watchUnknown(ctx context.Context) watch.Interface {
	events := make(chan watch.Event)
	w := watch.NewProxyWatcher(events)
	go func() {
		defer close(events)
		select {
		case <-ctx.Done():
		case <-w.StopChan():
		case <-time.After(unknownFor):
		}
	}()
	return w
}

func (c *resourceClient) request(options metav1.ListOptions) *rest.Request {
	var timeout time.Duration
	if options.TimeoutSeconds != nil {
		timeout = time.Duration(*options.TimeoutSeconds) * time.Second
	}
	return c.Get().Resource(c.Resource).VersionedParams(&options, metav1.ParameterCodec).Timeout(timeout)
}

// persist retries a request until it succeeds, fails in a way that client-go handles well, or was tried tries times, with
// pauses of at most 5 s. An informer by itself waits up to a minute after a failure and resumes that backoff after the
// next one. That suits thousands of clients, but gateways are few, and changes in the cluster have no effect until they
// retry.
func persist[T any](ctx context.Context, options metav1.ListOptions, tries int,
	ask func(context.Context, metav1.ListOptions) (_ T, failed bool, _ error),
) (answer T, failed bool, err error) {
	backoff := wait.Backoff{Duration: 500 * time.Millisecond, Factor: 2, Steps: math.MaxInt, Cap: 3 * time.Second, Jitter: 2. / 3}
	ended := backoff.DelayFunc().Until(ctx, true, true, func(ctx context.Context) (bool, error) {
		answer, failed, err = ask(ctx, options)
		tries--
		return !failed || tries == 0, nil
	})
	return answer, failed, cmp.Or(ended, err)
}
