// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/request"
)

func everybody(c *Config) {
	// The Authorization header of a client names its user.
	c.Authenticator = authenticator.RequestFunc(func(req *http.Request) (*authenticator.Response, bool, error) {
		return &authenticator.Response{User: &user.DefaultInfo{Name: req.Header.Get("Authorization")}}, true, nil
	})
	c.Authorizer = authorizer.AuthorizerFunc(func(context.Context, authorizer.Attributes) (authorizer.Decision, string, error) {
		return authorizer.DecisionAllow, "", nil
	})
}

// visitAs returns a request that has passed authentication and parsing.
func visitAs(user, verb string) *http.Request {
	info := &request.RequestInfo{IsResourceRequest: true, Verb: verb, Resource: "mappings"}
	ctx := request.WithRequestInfo(context.Background(), info)
	ctx = context.WithValue(ctx, requestStateKey{}, &requestState{user: user, info: info})
	return httptest.NewRequestWithContext(ctx, http.MethodGet, mappingsPath, nil)
}

func statusOf(handler http.Handler, req *http.Request) int {
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, req)
	return w.Code
}

func TestRequestsOfAUserAreRated(t *testing.T) {
	handler := withRateLimit(http.HandlerFunc(ok), 1)
	got := map[int]int{}
	for range 1000 {
		got[statusOf(handler, visitAs("one", "list"))]++
	}
	// The burst arrives at once, and the test takes too little time to refill the bucket by 1000.
	if got[200] < requestBurst || got[429] == 0 || got[200]+got[429] != 1000 {
		t.Errorf("answers by status: %v", got)
	}
	if got := statusOf(handler, visitAs("other", "list")); got != 200 {
		t.Errorf("another user got %d", got)
	}
	unlimited := withRateLimit(http.HandlerFunc(ok), 0)
	for range 1000 {
		if got := statusOf(unlimited, visitAs("one", "list")); got != 200 {
			t.Fatalf("%d without a limit", got)
		}
	}
}

func TestAnswersInFlightAreBounded(t *testing.T) {
	entered, leave := make(chan struct{}), make(chan struct{})
	handler := withMaxInFlight(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		entered <- struct{}{}
		<-leave
	}), 2)
	done := make(chan int)
	begin := func(verb string) {
		go func() { done <- statusOf(handler, visitAs("one", verb)) }()
		<-entered
	}
	begin("list")
	begin("get")
	if got := statusOf(handler, visitAs("one", "list")); got != 429 {
		t.Errorf("a third list got %d, want 429", got)
	}
	begin("watch") // not counted
	leave <- struct{}{}
	leave <- struct{}{}
	leave <- struct{}{}
	for range 3 {
		if got := <-done; got != 200 {
			t.Errorf("an admitted request got %d", got)
		}
	}
	begin("list")
	leave <- struct{}{}
	<-done
}

func TestWatchesOfAUserAreCounted(t *testing.T) {
	bothProtocols(t, func(t *testing.T, client *http.Client) {
		f := newFixture(t, func(c *Config) {
			everybody(c)
			c.Limits.WatchesPerUser = 2
		})
		watch := func(user string) (int, func()) {
			ctx, cancel := context.WithCancel(t.Context())
			t.Cleanup(cancel)
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+f.address+mappingsPath+"?watch=1", nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Authorization", user)
			resp, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = resp.Body.Close() })
			return resp.StatusCode, cancel
		}
		var got []int
		var ends []func()
		for _, user := range []string{"one", "one", "one", "other", "other", "other"} {
			status, end := watch(user)
			got, ends = append(got, status), append(ends, end)
		}
		if diff := cmp.Diff([]int{200, 200, 429, 200, 200, 429}, got); diff != "" {
			t.Errorf("-want +got\n%s", diff)
		}
		ends[0]()
		eventually(t, "a slot for a watch, as one has ended", func() bool { status, _ := watch("one"); return status == 200 })
	})
}

func TestConnectionsOfAUserAreCounted(t *testing.T) {
	f := newFixture(t, func(c *Config) {
		everybody(c)
		c.Limits.ConnectionsPerUser = 2
	})
	var got []int
	for _, user := range []string{"one", "one", "one", "other"} {
		transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true}
		t.Cleanup(transport.CloseIdleConnections)
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+f.address+mappingsPath, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", user)
		resp, err := transport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		got = append(got, resp.StatusCode)
	}
	if diff := cmp.Diff([]int{200, 200, 429, 200}, got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

func TestOptions(t *testing.T) {
	files := []string{"--tls-cert-file=c", "--tls-private-key-file=k"}
	for _, test := range []struct{ name, arg, want string }{
		{"the defaults", "", ""},
		{"an older TLS", "--tls-min-version=1.2", ""},
		{"a TLS that is too old", "--tls-min-version=1.1", `--tls-min-version: "1.1" is neither 1.3 nor 1.2`},
		{"no cache of reviews", "--review-cache-ttl=0s", "--review-cache-ttl: 0s is not between 0 and 1m"},
		{"a long cache of reviews", "--review-cache-ttl=1h", "--review-cache-ttl: 1h0m0s is not between 0 and 1m"},
		{"watches without rechecks", "--recheck-interval=0s", "--recheck-interval: 0s is not positive"},
		{"tokens that end at once", "--token-lifetime=1m", "--token-lifetime: 1m0s is not between 10m0s and 17520h0m0s"},
		{"a metrics address without a port", "--metrics-bind-address=9090", "--metrics-bind-address: address 9090: missing port in address"},
		{"no limit", "--max-connections=0", ""},
		{"a Secret and files", "--tls-secret=s", "--tls-secret: excludes --tls-cert-file and --tls-private-key-file"},
		{"a Secret with a path for a name", "--tls-secret=../s --tls-cert-file= --tls-private-key-file=", `--tls-secret: "../s" is not the name of a Secret`},
		{"a Secret", "--tls-secret=s --tls-cert-file= --tls-private-key-file=", ""},
		{"no certificate", "--tls-cert-file=", "--tls-cert-file: is required without --tls-secret"},
		{"a negative limit", "--max-watches-per-user=-1", "--max-watches-per-user: -1 is negative"},
	} {
		t.Run(test.name, func(t *testing.T) {
			o := NewOptions()
			flags := pflag.NewFlagSet("", pflag.ContinueOnError)
			o.AddFlags(flags)
			args := files
			if test.arg != "" {
				args = append(args[:2:2], strings.Fields(test.arg)...)
			}
			if err := flags.Parse(args); err != nil {
				t.Fatal(err)
			}
			got := ""
			if err := o.Validate(); err != nil {
				got = fmt.Sprint(err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}
