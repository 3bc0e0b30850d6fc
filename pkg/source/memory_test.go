// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package source

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"testing"

	logtest "github.com/sirupsen/logrus/hooks/test"
	"k8s.io/client-go/rest"
)

// wire connects clients to servers without a network, so that tests can run in synctest.
type wire struct {
	servers map[string]http.Handler

	mu   sync.Mutex
	open map[*io.PipeWriter]bool
}

// cut breaks all connections.
func (w *wire) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for body := range w.open {
		_ = body.CloseWithError(errors.New("connection reset"))
	}
}

// RoundTrip implements http.RoundTripper.
func (w *wire) RoundTrip(r *http.Request) (*http.Response, error) {
	reader, body := io.Pipe()
	ctx, hangUp := context.WithCancel(r.Context())
	a := &writer{header: http.Header{}, body: body, begun: make(chan struct{}), code: http.StatusOK}
	w.mu.Lock()
	w.open[body] = true
	w.mu.Unlock()
	go func() {
		defer func() {
			a.Flush()
			if recover() != nil {
				_ = body.CloseWithError(errors.New("stream reset"))
			}
			_ = body.Close()
			w.mu.Lock()
			delete(w.open, body)
			w.mu.Unlock()
		}()
		w.servers[r.URL.Host].ServeHTTP(a, r.WithContext(ctx))
	}()
	select {
	case <-a.begun:
	case <-r.Context().Done():
		hangUp()
		return nil, r.Context().Err()
	}
	return &http.Response{
		StatusCode: a.code, ProtoMajor: 2, Header: a.header, Request: r,
		Body: closer{reader, func() error { hangUp(); return reader.Close() }},
	}, nil
}

type closer struct {
	io.Reader
	close func() error
}

func (c closer) Close() error { return c.close() }

// writer is the http.ResponseWriter of one request.
type writer struct {
	header http.Header
	body   io.Writer
	code   int
	begun  chan struct{}
	once   sync.Once
}

func (w *writer) Header() http.Header { return w.header }
func (w *writer) Flush()              { w.once.Do(func() { close(w.begun) }) }
func (w *writer) WriteHeader(code int) {
	w.code = code
	w.Flush()
}

func (w *writer) Write(p []byte) (int, error) {
	w.Flush()
	return w.body.Write(p)
}

// wired runs a Source of these servers until the test ends. It asks the first one first.
func wired(t *testing.T, changed func(), stubs ...*stub) (*cluster, *wire, *logtest.Hook) {
	t.Helper()
	log, hook := testLog()
	w := &wire{servers: map[string]http.Handler{}, open: map[*io.PipeWriter]bool{}}
	var urls []string
	for i, s := range stubs {
		host := string(rune('a' + i))
		urls = append(urls, "https://"+host)
		w.servers[host] = http.HandlerFunc(s.serve)
	}
	servers, err := newServers(urls)
	if err != nil {
		t.Fatal(err)
	}
	f := &failover{next: &guard{limits: defaultLimits, next: w}, servers: servers, log: log}
	c, err := newCluster(&rest.Config{Host: "https://a", BearerToken: "secret", Transport: f, QPS: -1}, changed, log)
	if err != nil {
		t.Fatal(err)
	}
	c.servers = servers
	start(t, c)
	return c, w, hook
}

// bareStub returns a stub without a network.
func bareStub(watchList bool) *stub {
	return &stub{
		watchList: watchList, token: "secret", objects: map[string][]string{}, watchers: map[chan string]string{},
		nonsensed: map[string]int{}, accepts: map[string]string{},
	}
}
