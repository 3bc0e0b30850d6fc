// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/time/rate"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	utilcache "k8s.io/apimachinery/pkg/util/cache"
	"k8s.io/apiserver/pkg/endpoints/request"

	"github.com/smartnat/smartnat/relay/registry"
)

const (
	// limitedUsers bounds the number of users whose rate is tracked. Unauthenticated clients take no space in it.
	limitedUsers = 4096
	// requestBurst is the burst of requests, in seconds of the rate limit.
	requestBurst = 5
)

// Limits bound the resources that clients can use. 0 means no limit.
type Limits struct {
	Connections           int
	ConnectionsPerUser    int
	RequestsInFlight      int
	RequestsPerSecond     int // per user
	WatchesPerUser        int
	TokenReviewsPerSecond int // of tokens that were never valid
	BodyBytes             int
	StreamsPerConnection  int // per HTTP/2 connection
}

// DefaultLimits suits hundreds of gateways, each with one connection and one watch of each kind.
func DefaultLimits() Limits {
	return Limits{
		Connections: 1000, ConnectionsPerUser: 100, RequestsInFlight: 100, RequestsPerSecond: 50, WatchesPerUser: 100,
		TokenReviewsPerSecond: 50, BodyBytes: 64 << 10, StreamsPerConnection: 100,
	}
}

func (l *Limits) addFlags(flags *pflag.FlagSet) {
	for _, f := range l.flags() {
		flags.IntVar(f.value, f.name, *f.value, f.usage+"; 0 means no limit")
	}
}

func (l *Limits) validate() (errs []error) {
	for _, f := range l.flags() {
		if *f.value < 0 {
			errs = append(errs, fmt.Errorf("--%s: %d is negative", f.name, *f.value))
		}
	}
	return errs
}

type limitFlag struct {
	value       *int
	name, usage string
}

func (l *Limits) flags() []limitFlag {
	return []limitFlag{
		{&l.Connections, "max-connections", "maximum number of `connections`; beyond it, a new one displaces the oldest without an authorized request"},
		{&l.ConnectionsPerUser, "max-connections-per-user", "maximum number of `connections` of one user"},
		{&l.RequestsInFlight, "max-requests-inflight", "maximum number of `requests` served at the same time, not counting watches"},
		{&l.RequestsPerSecond, "max-requests-per-second", "maximum sustained rate of one user, in `requests` per second"},
		{&l.WatchesPerUser, "max-watches-per-user", "maximum number of open `watches` of one user"},
		{&l.TokenReviewsPerSecond, "max-token-reviews-per-second", "maximum rate of TokenReviews for unknown tokens, in `tokens` per second"},
		{&l.BodyBytes, "max-body-bytes", "maximum size of a request body in `bytes`"},
		{&l.StreamsPerConnection, "max-streams-per-connection", "maximum number of concurrent `requests` on one HTTP/2 connection"},
	}
}

// newLimiter returns a limiter that allows everything if perSecond is 0.
func newLimiter(perSecond, burst int) *rate.Limiter {
	if perSecond <= 0 {
		return rate.NewLimiter(rate.Inf, 0)
	}
	return rate.NewLimiter(rate.Limit(perSecond), burst)
}

// userLimiters has a limiter for each user.
type userLimiters struct {
	limit rate.Limit
	burst int
	mu    sync.Mutex
	users *utilcache.LRUExpireCache
}

func newUserLimiters(limit rate.Limit, burst int) *userLimiters {
	return &userLimiters{limit: limit, burst: burst, users: utilcache.NewLRUExpireCache(limitedUsers)}
}

func (u *userLimiters) of(user string) *rate.Limiter {
	u.mu.Lock()
	defer u.mu.Unlock()
	limiter, ok := u.users.Get(user)
	if !ok {
		limiter = rate.NewLimiter(u.limit, u.burst)
	}
	// After the time in which the bucket is full again, it need not be kept.
	u.users.Add(user, limiter, time.Duration(2*float64(u.burst)/float64(u.limit)*float64(time.Second)))
	return limiter.(*rate.Limiter)
}

// withRateLimit refuses requests that exceed a user's rate.
func withRateLimit(next http.Handler, perSecond int) http.Handler {
	if perSecond <= 0 {
		return next
	}
	limiters := newUserLimiters(rate.Limit(perSecond), requestBurst*perSecond)
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		v := requestStateOf(req.Context())
		if limiters.of(v.user).Allow() {
			next.ServeHTTP(w, req)
			return
		}
		v.rejection = "rate"
		registry.WriteError(w, req, apierrors.NewTooManyRequests("this user sends too many requests", 1))
	})
}

// withProvenConnection marks the connection of an authorized request as proven.
func withProvenConnection(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		v := requestStateOf(req.Context())
		if connectionOf(req.Context()).prove(v.user) {
			next.ServeHTTP(w, req)
			return
		}
		v.rejection = "connections"
		retryLater(w, req, apierrors.NewTooManyRequests("this user has too many connections", 1))
	})
}

// withMaxInFlight limits the number of responses that are written at the same time. Watches have a limit of their own.
func withMaxInFlight(next http.Handler, inFlight int) http.Handler {
	if inFlight <= 0 {
		return next
	}
	room := make(chan struct{}, inFlight)
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if isWatch(req) {
			next.ServeHTTP(w, req)
			return
		}
		select {
		case room <- struct{}{}:
			defer func() { <-room }()
			next.ServeHTTP(w, req)
		default:
			requestStateOf(req.Context()).rejection = "inflight"
			registry.WriteError(w, req, apierrors.NewTooManyRequests("the relay is busy", 1))
		}
	})
}

// withBodyLimit bounds the size of a request body and the time to read it. The server's own ReadTimeout would end watches too.
func withBodyLimit(next http.Handler, maxBytes int, timeout time.Duration) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.Body != nil && req.Body != http.NoBody {
			// A writer without deadlines has no connection to hold open.
			_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(timeout))
			if maxBytes > 0 {
				req.Body = http.MaxBytesReader(w, req.Body, int64(maxBytes))
			}
		}
		next.ServeHTTP(w, req)
	})
}

func isWatch(req *http.Request) bool {
	info, ok := request.RequestInfoFrom(req.Context())
	return ok && info.IsResourceRequest && info.Verb == "watch"
}

// tally counts what each user holds, up to a limit.
type tally struct {
	limit int // 0 means no limit
	mu    sync.Mutex
	users map[string]int
}

func newTally(limit int) *tally { return &tally{limit: limit, users: map[string]int{}} }

func (t *tally) take(user string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.limit > 0 && t.users[user] >= t.limit {
		return false
	}
	t.users[user]++
	return true
}

func (t *tally) giveBack(user string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.users[user]--; t.users[user] == 0 {
		delete(t.users, user)
	}
}
