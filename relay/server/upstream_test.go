// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	logtest "github.com/sirupsen/logrus/hooks/test"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apimachinery/pkg/watch"
	corefake "k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/rest"
	clienttesting "k8s.io/client-go/testing"

	"github.com/smartnat/smartnat/apis/kinds"
	smartnatfake "github.com/smartnat/smartnat/generated/clientset/versioned/fake"
	"github.com/smartnat/smartnat/relay/cluster"
	"github.com/smartnat/smartnat/relay/watchcache"
)

// TestWhatIsNoListIsNotTakenForAnEmptyOne proves that only a list is taken for a list: otherwise the relay would report
// every object as deleted.
func TestWhatIsNoListIsNotTakenForAnEmptyOne(t *testing.T) {
	const group = `"apiVersion":"smartnat.aureacentral.com/v1alpha1"`
	for name, test := range map[string]struct {
		answer string
		isList bool
	}{
		"an empty list":          {`{"kind":"MappingList",` + group + `,"metadata":{"resourceVersion":"7"},"items":[]}`, true},
		"an empty object":        {`{}`, false},
		"success":                {`{"kind":"Status","apiVersion":"v1","status":"Success"}`, false},
		"another kind":           {`{"kind":"Mapping",` + group + `,"metadata":{"name":"echo","resourceVersion":"7"}}`, false},
		"a list without version": {`{"kind":"MappingList",` + group + `,"metadata":{},"items":[]}`, false},
		"a page":                 {`<html>It works!</html>`, false},
		"half a list":            {`{"kind":"MappingList",` + group + `,"metadata":{"resourceVersion":"7"},"items":[`, false},
		"an empty body":          {``, false},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "application/json")
				_, _ = w.Write([]byte(test.answer))
			}))
			defer server.Close()
			client, err := cluster.New(&rest.Config{Host: server.URL})
			if err != nil {
				t.Fatal(err)
			}
			list, err := client.Mappings(metav1.NamespaceAll).List(t.Context(), metav1.ListOptions{})
			if err == nil {
				err = isWhole(list)
			}
			if (err == nil) != test.isList {
				t.Errorf("error %v", err)
			}
		})
	}
}

// reply is the response of a cluster to a request.
type reply func(*http.Request) (*http.Response, error)

// asked is a cluster that sends the same reply to all requests and records their times.
type asked struct {
	answer reply
	mu     sync.Mutex
	at     map[string][]time.Time
}

func (a *asked) RoundTrip(r *http.Request) (*http.Response, error) {
	resource := r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]
	a.mu.Lock()
	a.at[resource] = append(a.at[resource], time.Now())
	a.mu.Unlock()
	return a.answer(r)
}

// TestClusterIsHeardOfSoonAfterAnOutage proves that the relay retries every few seconds, however long and in whatever way
// the API server fails.
func TestClusterIsHeardOfSoonAfterAnOutage(t *testing.T) {
	status := func(code int) reply {
		return func(r *http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: code, Header: http.Header{}, Body: http.NoBody, Request: r}, nil
		}
	}
	// An error handler sleeps to rate-limit errors by the real clock; the fake clock here says 2000, so it would sleep for
	// years.
	handlers := utilruntime.ErrorHandlers
	utilruntime.ErrorHandlers = nil
	t.Cleanup(func() { utilruntime.ErrorHandlers = handlers })
	for _, test := range []struct {
		name   string
		answer reply
	}{
		{"refuses connections", func(*http.Request) (*http.Response, error) { return nil, fmt.Errorf("dial: %w", syscall.ECONNREFUSED) }},
		{"cannot be reached", func(*http.Request) (*http.Response, error) { return nil, errors.New("no route to host") }},
		{"is not authorized", status(http.StatusUnauthorized)},
		{"is broken", status(http.StatusInternalServerError)},
		{"is not ready", status(http.StatusServiceUnavailable)},
		{"is empty", status(http.StatusOK)},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := &asked{answer: test.answer, at: map[string][]time.Time{}}
				config := &rest.Config{Host: "https://cluster", Transport: a, QPS: -1}
				client, err := cluster.New(config)
				if err != nil {
					t.Fatal(err)
				}
				cache := watchcache.New(watchcache.NewEpoch(), watchcache.DefaultHistory)
				log, _ := logtest.NewNullLogger()
				ctx, stop := context.WithCancel(t.Context())
				ended := make(chan struct{})
				go func() {
					defer close(ended)
					upstreamOf(client).run(ctx, cache, newMetrics(prometheus.NewRegistry(), cache), log)
				}()
				time.Sleep(10 * time.Minute)
				stop()
				<-ended
				for _, resource := range []string{"mappings", "services", "endpointslices"} {
					var pauses []time.Duration
					for i, at := range a.at[resource][1:] {
						pauses = append(pauses, at.Sub(a.at[resource][i]))
					}
					t.Logf("%s: %d requests, longest pause %s", resource, len(pauses)+1, slices.Max(pauses))
					if longest := slices.Max(pauses); longest > 5*time.Second {
						t.Errorf("%s: pause of %s", resource, longest)
					}
					// A list and a watch every 3 s at most, apart from the first ones.
					if len(pauses) > 2*600/3+20 {
						t.Errorf("%s: %d requests in ten minutes", resource, len(pauses)+1)
					}
				}
			})
		})
	}
}

// TestEventsOfAnotherKind proves that the kind of an event is checked: it is what the server sends, not necessarily what
// was requested.
func TestEventsOfAnotherKind(t *testing.T) {
	refused := watch.Event{Type: watch.Error}
	gone := watch.Event{Type: watch.Error, Object: &metav1.Status{Reason: metav1.StatusReasonExpired}}
	mapping, service := newMapping("shop", "web", "mapped"), newService("shop", "mapped")
	for _, test := range []struct {
		name    string
		says    []watch.Event
		want    []watch.Event
		counted map[string]float64
		warned  int
	}{
		{
			"events of the expected kind",
			[]watch.Event{{Type: watch.Added, Object: mapping}, {Type: watch.Bookmark, Object: mapping}},
			[]watch.Event{{Type: watch.Added, Object: mapping}, {Type: watch.Bookmark, Object: mapping}},
			map[string]float64{"added": 1, "bookmark": 1}, 0,
		},
		{"an error is of another kind", []watch.Event{gone}, []watch.Event{gone}, map[string]float64{"error": 1}, 0},
		{"a new object", []watch.Event{{Type: watch.Added, Object: service}}, []watch.Event{refused}, map[string]float64{"unexpected": 1}, 1},
		{"a deleted object", []watch.Event{{Type: watch.Deleted, Object: service}}, []watch.Event{refused}, map[string]float64{"unexpected": 1}, 1},
		{"a bookmark", []watch.Event{{Type: watch.Bookmark, Object: service}}, []watch.Event{refused}, map[string]float64{"unexpected": 1}, 1},
		{"a Status that is not an error", []watch.Event{{Type: watch.Modified, Object: &metav1.Status{}}}, []watch.Event{refused}, map[string]float64{"unexpected": 1}, 1},
		{"a nil object", []watch.Event{{Type: watch.Added}}, []watch.Event{refused}, map[string]float64{"unexpected": 1}, 1},
		{
			"several in a row",
			[]watch.Event{{Type: watch.Added, Object: service}, {Type: watch.Added, Object: mapping}, {Type: watch.Added, Object: service}},
			[]watch.Event{refused, {Type: watch.Added, Object: mapping}, refused}, map[string]float64{"unexpected": 2, "added": 1}, 1,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			registry := prometheus.NewRegistry()
			log, hook := logtest.NewNullLogger()
			o := &observer{
				metrics: newMetrics(registry, watchcache.New(watchcache.NewEpoch(), watchcache.DefaultHistory)), resource: "mappings", log: log,
			}
			for round := 1; round <= 2; round++ {
				from := watch.NewFakeWithChanSize(len(test.says), false)
				for _, e := range test.says {
					from.Action(e.Type, e.Object)
				}
				from.Stop()
				var got []watch.Event
				for e := range o.listen(from, kinds.Mapping.Is).ResultChan() {
					if status, ok := e.Object.(*metav1.Status); ok && status.Reason == metav1.StatusReasonInternalError {
						e.Object = nil
					}
					got = append(got, e)
				}
				if diff := cmp.Diff(test.want, got); diff != "" {
					t.Errorf("events (-want +got):\n%s", diff)
				}
				for kind, n := range test.counted {
					if got := (&Config{Metrics: registry}).count(t, "upstream_events_total", "type="+kind); got != n*float64(round) {
						t.Errorf("%s: counted %v, want %v", kind, got, n*float64(round))
					}
				}
				// The end of a watch ends a series of unexpected events.
				if got := len(hook.AllEntries()); got != test.warned*round {
					t.Errorf("%d warnings, want %d", got, test.warned*round)
				}
			}
		})
	}
}

// TestAnEventOfAnotherKindHasAllReadAgain proves that an unexpected event causes a new list: it may have stood for a
// deletion.
func TestAnEventOfAnotherKindHasAllReadAgain(t *testing.T) {
	bothHandshakes(t, func(t *testing.T) {
		core, smartnat := corefake.NewClientset(newService("shop", "mapped")), smartnatfake.NewSimpleClientset(newMapping("shop", "web", "mapped"))
		begun := make(chan *watch.FakeWatcher, 100)
		core.PrependWatchReactor("services", func(clienttesting.Action) (bool, watch.Interface, error) {
			w := watch.NewFake()
			begun <- w
			return true, w, nil
		})
		f := startRelay(t, core, smartnat, "127.0.0.1:0", nil)
		var services corev1.ServiceList
		if f.get(t, "/api/v1/services", &services); len(services.Items) != 1 {
			t.Fatalf("%d Services before the deletion", len(services.Items))
		}
		if err := core.Tracker().Delete(corev1.SchemeGroupVersion.WithResource("services"), "shop", "mapped"); err != nil {
			t.Fatal(err)
		}
		(<-begun).Delete(newMapping("shop", "web", "mapped"))
		eventually(t, "the Service to be gone", func() bool {
			f.get(t, "/api/v1/services", &services)
			return len(services.Items) == 0
		})
	})
}
