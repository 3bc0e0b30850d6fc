// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"net/http"
	"net/http/httptest"
	"runtime"
	runtimemetrics "runtime/metrics"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/smartnat/smartnat/relay/registry"
	"github.com/smartnat/smartnat/relay/watchcache"
)

// beneath is about the stack that net/http uses below the handler of an HTTP/2 request.
const beneath = 640

// watchOnStack serves a request with that much stack in use. It returns the array to keep it alive.
//
//go:noinline
func watchOnStack(h http.Handler, w http.ResponseWriter, req *http.Request) (used [beneath]byte) {
	used[len(req.Method)] = 1
	h.ServeHTTP(w, req)
	return used
}

// noSplit is what the runtime adds to the stack in use before it shrinks a stack (stackNosplit in runtime/stack.go).
const noSplit = 800

// TestQuietWatchesHaveSmallStacks bounds the stack of a quiet watch, which dominates the memory of hundreds of them: Go
// shrinks a stack only while less than a quarter of it is in use (shrinkstack in runtime/stack.go). The memory of stacks would tell less:
// it has the free parts of spans too.
func TestQuietWatchesHaveSmallStacks(t *testing.T) {
	const watches, most = 1000, 2*stackOfQuietWatch/4 - noSplit
	log := logrus.New()
	cache := watchcache.New(watchcache.NewEpoch(), watchcache.DefaultHistory)
	c := &Config{
		Cache: cache, Log: log, RecheckInterval: time.Hour, Limits: Limits{RequestsInFlight: 10, RequestsPerSecond: 10 * watches},
		Authenticator: authenticator.RequestFunc(fakeAuthentication), Authorizer: authorizer.AuthorizerFunc(fakeAuthorization),
	}
	for _, r := range cache.Resources() {
		if err := r.Store().Replace(nil, ""); err != nil {
			t.Fatal(err)
		}
	}
	stopping := make(chan struct{})
	api, err := registry.New(cache, stopping)
	if err != nil {
		t.Fatal(err)
	}
	handler := newHandler(c, api, stopping)
	api.Hold, api.Sent = holdWatch, c.metrics.sent
	ctx, cancel := context.WithCancel(t.Context())
	var done sync.WaitGroup
	defer done.Wait()
	defer cancel()
	before := stacksInUse()
	// Start from a version: initial events are not counted as sent, and an open watch may not have begun yet.
	_, version := cache.Mappings().List()
	for range watches {
		req := httptest.NewRequestWithContext(ctx, http.MethodGet, mappingsPath+"?watch=1&resourceVersion="+version.String(), nil)
		req.Header.Set("Authorization", "Bearer "+gatewayToken)
		done.Go(func() { watchOnStack(handler, quietWriter{}, req) })
	}
	open := func() float64 { return c.count(t, "watches", "resource=mappings") }
	eventually(t, "all watches to be open", func() bool { return open() == watches })
	for _, name := range []string{"a", "b"} {
		if err := cache.Mappings().Store().Add(newMapping("shop", name, "web")); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "all watches to have written", func() bool { return c.count(t, "events_sent_total") == 2*watches })
	var each int64
	eventually(t, "the watches to be quiet", func() bool {
		each = (stacksInUse() - before) / watches
		return each < most
	})
	t.Logf("%d bytes in use per watch, less than %d", each, most)
}

// stacksInUse returns the bytes of goroutine stacks that are in use.
func stacksInUse() int64 {
	runtime.GC()
	scanned := []runtimemetrics.Sample{{Name: "/gc/scan/stack:bytes"}}
	runtimemetrics.Read(scanned)
	return int64(scanned[0].Value.Uint64())
}

// quietWriter discards the output of a watch.
type quietWriter struct{}

func (quietWriter) Header() http.Header              { return http.Header{} }
func (quietWriter) Write(p []byte) (int, error)      { return len(p), nil }
func (quietWriter) WriteHeader(int)                  {}
func (quietWriter) FlushError() error                { return nil }
func (quietWriter) SetWriteDeadline(time.Time) error { return nil }
