// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package source

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// drip is an endless body with a pause after each byte. It ends with its context.
type drip struct {
	ctx   context.Context
	pause time.Duration
}

func (d drip) Read(p []byte) (int, error) {
	select {
	case <-time.After(d.pause):
		p[0] = ' '
		return 1, nil
	case <-d.ctx.Done():
		return 0, d.ctx.Err()
	}
}

func (drip) Close() error { return nil }

// flood is an endless body.
type flood struct{}

func (flood) Read(p []byte) (int, error) { return copy(p, bytes.Repeat([]byte("x"), len(p))), nil }
func (flood) Close() error               { return nil }

// TestGuard covers servers that are slow, silent, or send endless bodies.
func TestGuard(t *testing.T) {
	json := http.Header{"Content-Type": {"application/json"}}
	html := http.Header{"Content-Type": {"text/html; charset=utf-8"}}
	never := func(r *http.Request) (*http.Response, error) {
		<-r.Context().Done()
		return nil, r.Context().Err()
	}
	dripping := func(pause time.Duration) roundTripper {
		return func(r *http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: http.StatusOK, Header: json, Body: drip{r.Context(), pause}}, nil
		}
	}
	saying := func(code int, header http.Header, body io.ReadCloser) roundTripper {
		return func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: code, Header: header, Body: body}, nil
		}
	}
	limits := defaultLimits
	limits.answer, limits.refusal = 1000, 100
	for _, test := range []struct {
		name, query string
		server      roundTripper
		// err is the expected error of the body, empty if it ends normally, after read bytes and the time after.
		err   string
		read  int
		after time.Duration
	}{
		{name: "a list without a response", server: never, err: "does not respond", after: 30 * time.Second},
		{name: "initial events do not begin", query: "watch=true&sendInitialEvents=true", server: never, err: "does not respond", after: 30 * time.Second},
		{name: "a watch without a response", query: "watch=true", server: never, err: "does not respond", after: 3 * time.Minute},
		{name: "a list stops in the middle", server: dripping(time.Hour), err: "does not respond", after: 30 * time.Second},
		{name: "a slow list may go on while data arrives", server: dripping(29 * time.Second), err: "too large", read: 1000, after: 1001 * 29 * time.Second},
		{name: "a watch falls silent", query: "watch=true", server: dripping(time.Hour), after: 3 * time.Minute},
		{name: "a list without an end", server: saying(http.StatusOK, json, flood{}), err: "too large", read: 1000},
		{name: "a refusal without an end", server: saying(http.StatusBadGateway, json, flood{}), err: "too large", read: 100},
		{name: "a refusal by a page", server: saying(http.StatusBadGateway, html, flood{}), read: len("502 Bad Gateway, without a Status")},
		{name: "a refusal without a type", server: saying(http.StatusBadGateway, http.Header{}, flood{}), read: len("502 Bad Gateway, without a Status")},
		{name: "a refusal by a Status", server: saying(http.StatusBadGateway, json, io.NopCloser(strings.NewReader(`{"kind":"Status"}`))), read: 17},
		{name: "a page instead of objects", server: saying(http.StatusOK, html, flood{}), err: `content type "text/html; charset=utf-8", want a Kubernetes object`},
		{name: "a response of exactly the maximum size", server: saying(http.StatusOK, json, io.NopCloser(strings.NewReader(strings.Repeat("x", 1000)))), read: 1000},
		{name: "a type with parameters", server: saying(http.StatusOK, http.Header{"Content-Type": {"application/vnd.kubernetes.protobuf;stream=watch"}}, http.NoBody)},
		{name: "no type", server: saying(http.StatusOK, http.Header{}, http.NoBody)},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://relay/apis?"+test.query, nil)
				if err != nil {
					t.Fatal(err)
				}
				started := time.Now()
				var read []byte
				response, err := (&guard{limits: limits, next: test.server}).RoundTrip(request)
				if err == nil {
					read, err = io.ReadAll(response.Body)
					defer response.Body.Close()
				}
				if test.err == "" && err != nil || test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err)) {
					t.Errorf("error %v, want %q", err, test.err)
				}
				if len(read) != test.read || time.Since(started) != test.after {
					t.Errorf("%d bytes in %s, want %d in %s", len(read), time.Since(started), test.read, test.after)
				}
			})
		})
	}
}

// TestGuardLetsTheCallerEndIt proves that a caller can cancel a request, and that the error is the caller's.
func TestGuardLetsTheCallerEndIt(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	g := &guard{limits: defaultLimits, next: roundTripper(func(r *http.Request) (*http.Response, error) {
		cancel()
		<-r.Context().Done()
		return nil, r.Context().Err()
	})}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://relay/", nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := g.RoundTrip(request)
	if err == nil {
		response.Body.Close()
	}
	if !errors.Is(err, context.Canceled) || errors.Is(err, errSilent) {
		t.Errorf("error %v, want the caller's", err)
	}
}

// TestGuardBoundsHowLongAServerHasUsWait checks the limit on Retry-After.
func TestGuardBoundsHowLongAServerHasUsWait(t *testing.T) {
	for said, want := range map[string]string{"1": "1", "30": "30", "31": "30", "86400": "30", "": "", "soon": "soon"} {
		g := &guard{limits: defaultLimits, next: roundTripper(func(*http.Request) (*http.Response, error) {
			header := http.Header{}
			if said != "" {
				header.Set("Retry-After", said)
			}
			return &http.Response{StatusCode: http.StatusTooManyRequests, Header: header, Body: http.NoBody}, nil
		})}
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://relay/", nil)
		if err != nil {
			t.Fatal(err)
		}
		response, err := g.RoundTrip(request)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if got := response.Header.Get("Retry-After"); got != want {
			t.Errorf("Retry-After %q becomes %q, want %q", said, got, want)
		}
	}
}
