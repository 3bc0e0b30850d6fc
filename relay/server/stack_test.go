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

// beneath is about what net/http has on the stack of an HTTP/2 request.
const beneath = 640

// watchOnStack serves a request with that much on the stack already, which it returns so that it is there.
//
//go:noinline
func watchOnStack(h http.Handler, w http.ResponseWriter, req *http.Request) (used [beneath]byte) {
	used[len(req.Method)] = 1
	h.ServeHTTP(w, req)
	return used
}

// What a quiet watch keeps on its stack decides what hundreds of them take: Go gives a stack back down to four times of what
// is used of it.
func TestQuietWatchesHaveSmallStacks(t *testing.T) {
	const watches, most = 1000, stackOfQuietWatch + 1<<10 // what else there is
	log := logrus.New()
	cache := watchcache.New(watchcache.NewEpoch(), watchcache.DefaultHistory)
	c := &Config{
		Cache: cache, Log: log, RecheckInterval: time.Hour, Limits: Limits{RequestsInFlight: 10, RequestsPerSecond: 10 * watches},
		Authenticator: authenticator.RequestFunc(fakeAuthentication), Authorizer: authorizer.AuthorizerFunc(fakeAuthorization),
	}
	for _, r := range []*watchcache.Resource{cache.Mappings(), cache.Services(), cache.EndpointSlices()} {
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
	api.Hold, api.Sent = held, c.metrics.sent
	ctx, cancel := context.WithCancel(t.Context())
	var done sync.WaitGroup
	defer done.Wait()
	defer cancel()
	before := stacks()
	// From a version on: what one begins with would not be counted as sent, and one that is open may not have begun yet.
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
	eventually(t, "stacks that are not used to be given back", func() bool {
		each = (stacks() - before) / watches
		return each <= most
	})
	t.Logf("%d bytes a watch", each)
}

// stacks is what goroutines hold.
func stacks() int64 {
	for range 4 { // each collection halves a stack
		runtime.GC()
	}
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return int64(stats.StackInuse)
}

// quietWriter takes what a watch writes.
type quietWriter struct{}

func (quietWriter) Header() http.Header              { return http.Header{} }
func (quietWriter) Write(p []byte) (int, error)      { return len(p), nil }
func (quietWriter) WriteHeader(int)                  {}
func (quietWriter) FlushError() error                { return nil }
func (quietWriter) SetWriteDeadline(time.Time) error { return nil }
