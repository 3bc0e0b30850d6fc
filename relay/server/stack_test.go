// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"net/http"
	"net/http/httptest"
	"runtime"
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

// TestQuietWatchesHaveSmallStacks bounds the stack of a quiet watch, which dominates the memory of hundreds of them: Go
// shrinks a stack only while less than a quarter of it is in use.
func TestQuietWatchesHaveSmallStacks(t *testing.T) {
	// Stacks are powers of two, and spans of them are partly free. A watch whose stack does not shrink has more than twice as much.
	const watches, most = 1000, 2*stackOfQuietWatch - 1<<9
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
	before := stacks()
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
	eventually(t, "unused stacks to shrink", func() bool {
		each = (stacks() - before) / watches
		return each <= most
	})
	t.Logf("%d bytes per watch", each)
}

// stacks returns the bytes that goroutine stacks hold.
func stacks() int64 {
	for range 4 { // each collection halves a stack
		runtime.GC()
	}
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return int64(stats.StackInuse)
}

// quietWriter discards the output of a watch.
type quietWriter struct{}

func (quietWriter) Header() http.Header              { return http.Header{} }
func (quietWriter) Write(p []byte) (int, error)      { return len(p), nil }
func (quietWriter) WriteHeader(int)                  {}
func (quietWriter) FlushError() error                { return nil }
func (quietWriter) SetWriteDeadline(time.Time) error { return nil }
