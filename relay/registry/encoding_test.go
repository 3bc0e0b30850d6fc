// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"

	"github.com/smartnat/smartnat/relay/watchcache"
)

// populated returns the cache of a cluster with two mapped Services, one of them without endpoints.
func populated(t *testing.T) *watchcache.Cache {
	cache := syncedCache(t, 16)
	put(t, cache, newMapping("a", "web"), newMapping("b", "mail"), newService("web"), newService("mail"),
		newSlice("web-1", "web", "10.244.0.1", "10.244.0.2"), newSlice("mail-1", "mail"))
	return cache
}

// TestProtobufSaysTheSameAsJSON proves that clients decode the same objects from both encodings, except that protobuf
// loses the difference between empty and absent, and the kinds of list items.
func TestProtobufSaysTheSameAsJSON(t *testing.T) {
	cache := populated(t)
	config := serve(t, cache)
	read := func(mediaType string) []any {
		c := *config
		c.ContentType, c.AcceptContentTypes = mediaType, mediaType
		var seen []any
		wrapped := &noting{mediaTypes: map[string]bool{}}
		c.Wrap(wrapped.wrap)
		client, err := kubernetes.NewForConfig(&c)
		if err != nil {
			t.Fatal(err)
		}
		services, slices := client.CoreV1().Services("shop"), client.DiscoveryV1().EndpointSlices("shop")
		seen = append(seen, must(services.Get(t.Context(), "web", metav1.GetOptions{}))(t),
			must(services.List(t.Context(), metav1.ListOptions{}))(t), must(services.List(t.Context(), metav1.ListOptions{LabelSelector: "no=where"}))(t),
			must(services.List(t.Context(), metav1.ListOptions{LabelSelector: "tier=web"}))(t), must(services.List(t.Context(), metav1.ListOptions{}))(t),
			must(slices.Get(t.Context(), "web-1", metav1.GetOptions{}))(t), must(slices.List(t.Context(), metav1.ListOptions{}))(t))
		for _, open := range []func(context.Context, metav1.ListOptions) (watch.Interface, error){services.Watch, slices.Watch} {
			seen = append(seen, initialEvents(t, open))
		}
		for got := range wrapped.mediaTypes {
			if got != mediaType && got != mediaType+";stream=watch" {
				t.Errorf("requested %s, got %s", mediaType, got)
			}
		}
		return seen
	}
	inJSON, inProtobuf := read(runtime.ContentTypeJSON), read(runtime.ContentTypeProtobuf)
	if diff := cmp.Diff(inJSON, inProtobuf, cmpopts.EquateEmpty(), cmpopts.IgnoreTypes(metav1.TypeMeta{})); diff != "" {
		t.Errorf("-JSON +protobuf\n%s", diff)
	}
}

// initialEvents reads a watch up to the bookmark after the initial events.
func initialEvents(t *testing.T, open func(context.Context, metav1.ListOptions) (watch.Interface, error)) []watch.Event {
	t.Helper()
	yes := true
	w, err := open(t.Context(), metav1.ListOptions{
		SendInitialEvents: &yes, ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan, AllowWatchBookmarks: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	var events []watch.Event
	for e := range w.ResultChan() {
		events = append(events, e)
		if e.Type == watch.Bookmark {
			break
		}
	}
	if len(events) != 3 {
		t.Errorf("%d events, want two objects and a bookmark: %v", len(events), events)
	}
	return events
}

func TestErrorsAreWrittenAsTheClientLikes(t *testing.T) {
	config := serve(t, populated(t))
	config.ContentType, config.AcceptContentTypes = runtime.ContentTypeProtobuf, runtime.ContentTypeProtobuf
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	_, err = client.CoreV1().Services("shop").Get(t.Context(), "none", metav1.GetOptions{})
	if fmt.Sprint(err) != `services "none" not found` {
		t.Errorf("%v", err)
	}
	w, err := client.CoreV1().Services("shop").Watch(t.Context(), metav1.ListOptions{ResourceVersion: "5"})
	if fmt.Sprint(err) != "too old resource version: 5" {
		t.Errorf("%v %v", w, err)
	}
}

func TestMetadataAlone(t *testing.T) {
	for _, mediaType := range []string{runtime.ContentTypeJSON, runtime.ContentTypeProtobuf} {
		t.Run(mediaType, func(t *testing.T) {
			config := metadata.ConfigFor(serve(t, populated(t)))
			config.Wrap(func(next http.RoundTripper) http.RoundTripper { return accepting{mediaType, next} })
			client, err := metadata.NewForConfig(config)
			if err != nil {
				t.Fatal(err)
			}
			services := client.Resource(schema.GroupVersionResource{Version: "v1", Resource: "services"}).Namespace("shop")
			list := must(services.List(t.Context(), metav1.ListOptions{}))(t)
			if len(list.Items) != 2 || list.Items[1].Name != "web" || list.Items[1].Labels["tier"] != "web" || list.ResourceVersion == "" {
				t.Errorf("listed %+v", list)
			}
			one := must(services.Get(t.Context(), "web", metav1.GetOptions{}))(t)
			if diff := cmp.Diff(list.Items[1].ObjectMeta, one.ObjectMeta); diff != "" {
				t.Errorf("-list +get\n%s", diff)
			}
			events := initialEvents(t, services.Watch)
			if diff := cmp.Diff(runtime.Object(&list.Items[1]), events[1].Object, cmpopts.IgnoreTypes(metav1.TypeMeta{})); diff != "" {
				t.Errorf("-get +watch\n%s", diff)
			}
		})
	}
}

// noting records the media types of responses.
type noting struct {
	next       http.RoundTripper
	mediaTypes map[string]bool
}

func (n *noting) wrap(next http.RoundTripper) http.RoundTripper { n.next = next; return n }

func (n *noting) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := n.next.RoundTrip(req)
	if err == nil {
		n.mediaTypes[resp.Header.Get("Content-Type")] = true
	}
	return resp, err
}

// accepting restricts the Accept header to one media type.
type accepting struct {
	mediaType string
	next      http.RoundTripper
}

func (a accepting) RoundTrip(req *http.Request) (*http.Response, error) {
	for clause := range strings.SplitSeq(req.Header.Get("Accept"), ",") {
		if strings.HasPrefix(clause, a.mediaType+";") {
			req.Header.Set("Accept", clause)
		}
	}
	resp, err := a.next.RoundTrip(req)
	if err == nil && !strings.HasPrefix(resp.Header.Get("Content-Type"), a.mediaType) {
		return nil, fmt.Errorf("accepted %s, got %s", req.Header.Get("Accept"), resp.Header.Get("Content-Type"))
	}
	return resp, err
}

// must fails the test on an error. Call it as must(f())(t).
func must[T any](obj T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return obj
	}
}
