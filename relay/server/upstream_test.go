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

	"github.com/prometheus/client_golang/prometheus"
	logtest "github.com/sirupsen/logrus/hooks/test"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/smartnat/smartnat/generated/clientset/versioned"
	"github.com/smartnat/smartnat/relay/watchcache"
)

// TestWhatIsNoListIsNotTakenForAnEmptyOne: the relay would tell all gateways that everything was deleted.
func TestWhatIsNoListIsNotTakenForAnEmptyOne(t *testing.T) {
	const group = `"apiVersion":"smartnat.aureacentral.com/v1alpha1"`
	for name, test := range map[string]struct {
		answer string
		isList bool
	}{
		"an empty list":           {`{"kind":"MappingList",` + group + `,"metadata":{"resourceVersion":"7"},"items":[]}`, true},
		"an empty object":         {`{}`, false},
		"success":                 {`{"kind":"Status","apiVersion":"v1","status":"Success"}`, false},
		"another kind":            {`{"kind":"Mapping",` + group + `,"metadata":{"name":"echo","resourceVersion":"7"}}`, false},
		"a list without version":  {`{"kind":"MappingList",` + group + `,"metadata":{},"items":[]}`, false},
		"a page":                  {`<html>It works!</html>`, false},
		"half a list":             {`{"kind":"MappingList",` + group + `,"metadata":{"resourceVersion":"7"},"items":[`, false},
		"nothing that can be had": {``, false},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "application/json")
				_, _ = w.Write([]byte(test.answer))
			}))
			defer server.Close()
			client, err := versioned.NewForConfig(&rest.Config{Host: server.URL})
			if err != nil {
				t.Fatal(err)
			}
			list, err := client.SmartnatV1alpha1().Mappings(metav1.NamespaceAll).List(t.Context(), metav1.ListOptions{})
			if err == nil {
				err = isWhole(list)
			}
			if (err == nil) != test.isList {
				t.Errorf("error %v", err)
			}
		})
	}
}

// asked is a cluster that answers all alike and notes when it was asked for what.
type asked struct {
	answer func(*http.Request) (*http.Response, error)
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

// TestClusterIsHeardOfSoonAfterAnOutage: however long and in whatever way it does not work, it is asked every few seconds.
func TestClusterIsHeardOfSoonAfterAnOutage(t *testing.T) {
	status := func(code int) func(*http.Request) (*http.Response, error) {
		return func(r *http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: code, Header: http.Header{}, Body: http.NoBody, Request: r}, nil
		}
	}
	// One of these sleeps until the last error is a while ago. That was today, and here the year is 2000.
	handlers := utilruntime.ErrorHandlers
	utilruntime.ErrorHandlers = nil
	t.Cleanup(func() { utilruntime.ErrorHandlers = handlers })
	for _, test := range []struct {
		name   string
		answer func(*http.Request) (*http.Response, error)
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
				core, err := kubernetes.NewForConfig(config)
				if err != nil {
					t.Fatal(err)
				}
				smartnat, err := versioned.NewForConfig(config)
				if err != nil {
					t.Fatal(err)
				}
				cache := watchcache.New(watchcache.NewEpoch(), watchcache.DefaultHistory)
				log, _ := logtest.NewNullLogger()
				ctx, stop := context.WithCancel(t.Context())
				ended := make(chan struct{})
				go func() {
					defer close(ended)
					Upstream{Core: core, SmartNat: smartnat}.run(ctx, cache, newMetrics(prometheus.NewRegistry(), cache), log)
				}()
				time.Sleep(time.Hour)
				stop()
				<-ended
				for _, resource := range []string{"mappings", "services", "endpointslices"} {
					var pauses []time.Duration
					for i, at := range a.at[resource][1:] {
						pauses = append(pauses, at.Sub(a.at[resource][i]))
					}
					t.Logf("%s: asked for %d times, after %s at most", resource, len(pauses)+1, slices.Max(pauses))
					if longest := slices.Max(pauses); longest > 5*time.Second {
						t.Errorf("%s: a pause of %s", resource, longest)
					}
					// A watch and a list, every 3 s at most, but for the first ones.
					if len(pauses) > 2*3600/3+20 {
						t.Errorf("%s: asked for %d times in an hour", resource, len(pauses)+1)
					}
				}
			})
		})
	}
}
