// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package source

import (
	"cmp"
	"context"
	"errors"
	"math"
	"net/http"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
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

// newCodecs returns the codecs of a client, which also decode watch events and errors.
func newCodecs() serializer.CodecFactory {
	scheme := newScheme()
	for _, kind := range kinds.All() {
		metav1.AddToGroupVersion(scheme, kind.GroupVersion())
	}
	return serializer.NewCodecFactory(scheme)
}

// resourceClient lists and watches a resource in all namespaces and reports each result to contact.
type resourceClient struct {
	resource
	rest.Interface
	contact *contact
}

func newResourceClient(cfg *rest.Config, httpClient *http.Client, codecs serializer.CodecFactory, r resource, c *contact) (*resourceClient, error) {
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
	cfg.ContentConfig = rest.ContentConfig{AcceptContentTypes: accept, GroupVersion: &group, NegotiatedSerializer: codecs.WithoutConversion()}
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
	if err == nil {
		err = c.checkList(list)
	}
	return list, c.contact.recordResult(ctx, by, c.Resource, "list", options, err), err
}

// watch returns the same as list.
func (c *resourceClient) watch(ctx context.Context, options metav1.ListOptions) (_ watch.Interface, failed bool, _ error) {
	options.Watch = true
	ctx, by := whoAnswers(ctx)
	w, err := c.request(options).Watch(ctx)
	if failed := c.contact.recordResult(ctx, by, c.Resource, "watch", options, err); err != nil {
		return nil, failed, err
	}
	tell := func(err error) bool { return c.contact.recordResult(ctx, by, c.Resource, "events", options, err) }
	return newCheckedWatch(c.resource, w, options.SendInitialEvents != nil, tell), false, nil
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
