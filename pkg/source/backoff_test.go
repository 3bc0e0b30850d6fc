// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/client-go/rest"

	"github.com/smartnat/smartnat/apis/kinds"
)

// asked records the time of each request.
type asked struct {
	answer roundTripper
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

// TestReconnectsBackOff counts the requests of two gateways within an hour to a server that fails in various ways.
func TestReconnectsBackOff(t *testing.T) {
	status := func(code int, header http.Header) roundTripper {
		return func(r *http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: code, Header: header.Clone(), Body: http.NoBody, Request: r}, nil
		}
	}
	for _, test := range []struct {
		name   string
		answer roundTripper
		// takes is the time that a request waits for the server, in addition to the pauses.
		takes time.Duration
	}{
		{"refuses connections", func(*http.Request) (*http.Response, error) { return nil, fmt.Errorf("dial: %w", syscall.ECONNREFUSED) }, 0},
		{"cannot be reached", func(*http.Request) (*http.Response, error) { return nil, errors.New("no route to host") }, 0},
		{"does not respond", func(r *http.Request) (*http.Response, error) { <-r.Context().Done(); return nil, r.Context().Err() }, defaultLimits.headers},
		{"is not authorized", status(http.StatusUnauthorized, http.Header{}), 0},
		{"has gone", status(http.StatusGone, http.Header{}), 0},
		{"rejects everything as invalid", status(http.StatusUnprocessableEntity, http.Header{}), 0},
		{"is busy", status(http.StatusTooManyRequests, http.Header{}), 0},
		{"is busy for a year", status(http.StatusTooManyRequests, http.Header{"Retry-After": {"31536000"}}), defaultLimits.retryAfter},
		{"is broken", status(http.StatusInternalServerError, http.Header{}), 0},
		{"is a page", status(http.StatusOK, http.Header{"Content-Type": {"text/html"}}), 0},
		{"is empty", status(http.StatusOK, http.Header{"Content-Type": {"application/json"}}), 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var gateways []*asked
				for range 2 {
					a := &asked{answer: test.answer, at: map[string][]time.Time{}}
					gateways = append(gateways, a)
					log, hook := testLog()
					c, err := newCluster(&rest.Config{Host: "https://relay", Transport: &guard{limits: defaultLimits, next: a}}, func() {}, log)
					if err != nil {
						t.Fatal(err)
					}
					ctx, stop := context.WithCancel(t.Context())
					ended := make(chan struct{})
					go func() { defer close(ended); _ = c.Run(ctx) }()
					defer func() {
						if n := messages(hook, "lost connection"); n != 1 {
							t.Errorf("%d log lines about the lost connection, want 1", n)
						}
						stop()
						synctest.Wait()
						select {
						case <-ended:
						default:
							t.Error("the source does not end with its context")
						}
					}()
				}
				time.Sleep(time.Hour)
				for resource := range lists {
					first, second := gateways[0].rounds(resource), gateways[1].rounds(resource)
					t.Logf("%s: %d and %d rounds, longest pause %s", resource, len(first), len(second), slices.Max(pauses(first)))
					// After the first few, each pause takes 3 to 5 s, and the retries never stop.
					least, most := int(time.Hour/(test.takes+5*time.Second)), int(time.Hour/(3*time.Second))+4
					if len(first) < least || len(first) > most {
						t.Errorf("%s: %d rounds in an hour, want %d to %d", resource, len(first), least, most)
					}
					if longest := slices.Max(pauses(first)); longest > test.takes+5*time.Second {
						t.Errorf("%s: pause of %s", resource, longest)
					}
					if slices.Equal(first[1:], second[1:]) {
						t.Errorf("%s: two gateways retry at the same time", resource)
					}
				}
			})
		})
	}
}

// TestListsDoWhereWatchesFail proves that changes arrive by lists, later, if watches fail in any way.
func TestListsDoWhereWatchesFail(t *testing.T) {
	for _, code := range []int{http.StatusForbidden, http.StatusTooManyRequests, http.StatusInternalServerError, http.StatusBadGateway} {
		t.Run(http.StatusText(code), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var listed atomic.Int64
				answer := func(r *http.Request) (*http.Response, error) {
					response := &http.Response{StatusCode: code, Header: http.Header{}, Body: http.NoBody, Request: r}
					if r.URL.Query().Get("watch") == "" {
						if lists[path.Base(r.URL.Path)] != "" { // not a question for the known kinds
							listed.Add(1)
						}
						response.StatusCode = http.StatusOK
						response.Header.Set("Content-Type", "application/json")
						response.Body = io.NopCloser(strings.NewReader(listAt(r.URL.Path, "")))
					}
					return response, nil
				}
				log, hook := testLog()
				c, err := newCluster(&rest.Config{Host: "https://relay", Transport: &guard{limits: defaultLimits, next: roundTripper(answer)}}, func() {}, log)
				if err != nil {
					t.Fatal(err)
				}
				ctx, stop := context.WithCancel(t.Context())
				defer stop()
				go func() { _ = c.Run(ctx) }()
				time.Sleep(time.Hour)
				// Each resource lists after half a minute of failing watches plus the pauses of client-go.
				if n, resources := listed.Load(), int64(len(kinds.All())); n < resources*25 || n > resources*130 {
					t.Errorf("%d lists in an hour", n)
				}
				if n := messages(hook, "lost connection"); n != 1 {
					t.Errorf("%d log lines about the lost connection, want 1", n)
				}
			})
		})
	}
}

// rounds returns the times of requests that did not directly follow another one.
func (a *asked) rounds(resource string) []time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	var rounds []time.Time
	for i, at := range a.at[resource] {
		if i == 0 || at.Sub(a.at[resource][i-1]) > 500*time.Millisecond {
			rounds = append(rounds, at)
		}
	}
	return rounds
}

func pauses(at []time.Time) []time.Duration {
	var all []time.Duration
	for i := range at[1:] {
		all = append(all, at[i+1].Sub(at[i]))
	}
	return all
}
