// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package source

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
)

// resource is one kind of objects, and how it is asked for. The clientsets would bring all kinds there are.
type resource struct {
	schema.GroupVersionResource
	object, list runtime.Object
	// protobuf is set for kinds that the server can send in it: smaller, and much less work to write and to read.
	protobuf bool
}

func resources() []resource {
	return []resource{
		{
			GroupVersionResource: v1alpha1.SchemeGroupVersion.WithResource("mappings"),
			object:               &v1alpha1.Mapping{}, list: &v1alpha1.MappingList{},
		},
		{
			GroupVersionResource: corev1.SchemeGroupVersion.WithResource("services"), protobuf: true,
			object: &corev1.Service{}, list: &corev1.ServiceList{},
		},
		{
			GroupVersionResource: discoveryv1.SchemeGroupVersion.WithResource("endpointslices"), protobuf: true,
			object: &discoveryv1.EndpointSlice{}, list: &discoveryv1.EndpointSliceList{},
		},
	}
}

// newScheme knows the kinds that are used and no more.
func newScheme() (*runtime.Scheme, error) {
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		return nil, fmt.Errorf("registering Mapping: %w", err)
	}
	scheme.AddKnownTypes(corev1.SchemeGroupVersion, &corev1.Service{}, &corev1.ServiceList{}, &corev1.List{})
	scheme.AddKnownTypes(discoveryv1.SchemeGroupVersion, &discoveryv1.EndpointSlice{}, &discoveryv1.EndpointSliceList{})
	return scheme, nil
}

// newCodecs are those of a client: beside the objects it reads events and errors.
func newCodecs() (serializer.CodecFactory, error) {
	scheme, err := newScheme()
	if err != nil {
		return serializer.CodecFactory{}, err
	}
	metav1.AddToGroupVersion(scheme, corev1.SchemeGroupVersion)
	metav1.AddToGroupVersion(scheme, discoveryv1.SchemeGroupVersion)
	return serializer.NewCodecFactory(scheme), nil
}

// listWatch lists and watches a resource in all namespaces, and tells contact how it went.
func listWatch(cfg *rest.Config, httpClient *http.Client, codecs serializer.CodecFactory, r resource, c *contact) (cache.ListerWatcher, error) {
	group, path := r.GroupVersion(), "/apis"
	if group.Group == corev1.GroupName {
		path = "/api"
	}
	// A relay sends those who ask by this profile what they need and no more.
	const profile = ";profile=" + v1alpha1.GatewayProfile
	accept := runtime.ContentTypeJSON + profile
	if r.protobuf {
		accept = runtime.ContentTypeProtobuf + profile + "," + accept
	}
	cfg = rest.CopyConfig(cfg)
	cfg.APIPath = path
	cfg.ContentConfig = rest.ContentConfig{AcceptContentTypes: accept, GroupVersion: &group, NegotiatedSerializer: codecs.WithoutConversion()}
	client, err := rest.RESTClientForConfigAndClient(cfg, httpClient)
	if err != nil {
		return nil, err
	}
	request := func(options metav1.ListOptions) *rest.Request {
		var timeout time.Duration
		if options.TimeoutSeconds != nil {
			timeout = time.Duration(*options.TimeoutSeconds) * time.Second
		}
		return client.Get().Resource(r.Resource).VersionedParams(&options, metav1.ParameterCodec).Timeout(timeout)
	}
	return cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
			ctx, by := whoAnswers(ctx)
			list, err := request(options).Do(ctx).Get()
			if err == nil {
				err = r.checkList(list)
			}
			c.judge(ctx, by, r.Resource, "list", options, err)
			return list, err
		},
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			options.Watch = true
			initial := options.SendInitialEvents != nil
			ctx, by := whoAnswers(ctx)
			w, err := request(options).Watch(ctx)
			failed := c.judge(ctx, by, r.Resource, "watch", options, err)
			if err == nil {
				return newCheckedWatch(r, w, initial, func(err error) bool { return c.judge(ctx, by, r.Resource, "events", options, err) }), nil
			}
			if initial && failed {
				// After some errors client-go tries again at once, or waits and hears nobody who says that it is to end. After any
				// other it lists, and then waits and listens.
				err = errors.New(err.Error())
			}
			return nil, err
		},
	}, client), nil
}
