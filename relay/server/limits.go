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
	// limitedUsers bounds how many users' rates are remembered. Strangers cannot fill it: it holds users that the cluster
	// knows.
	limitedUsers = 4096
	// requestBurst is how many seconds' worth of requests a user may send at once.
	requestBurst = 5
)

// Limits say how much of the relay one client can use up. 0 is no limit.
type Limits struct {
	Connections           int
	ConnectionsPerUser    int
	RequestsInFlight      int
	RequestsPerSecond     int // of one user
	WatchesPerUser        int
	TokenReviewsPerSecond int // of tokens that were never good
	BodyBytes             int
	StreamsPerConnection  int // of one HTTP/2 connection
}

// DefaultLimits are meant for hundreds of gateways, each with a connection and a watch of each kind.
func DefaultLimits() Limits {
	return Limits{
		Connections: 1000, ConnectionsPerUser: 100, RequestsInFlight: 100, RequestsPerSecond: 50, WatchesPerUser: 100,
		TokenReviewsPerSecond: 50, BodyBytes: 64 << 10, StreamsPerConnection: 100,
	}
}

func (l *Limits) addFlags(flags *pflag.FlagSet) {
	for _, f := range l.flags() {
		flags.IntVar(f.value, f.name, *f.value, f.usage+"; 0 is no limit")
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
		{&l.Connections, "max-connections", "how many `connections` there may be; a new one takes the place of the oldest on which nothing was allowed yet"},
		{&l.ConnectionsPerUser, "max-connections-per-user", "how many of the `connections` may be one user's"},
		{&l.RequestsInFlight, "max-requests-inflight", "how many `requests` are answered at once, watches left out"},
		{&l.RequestsPerSecond, "max-requests-per-second", "how many `requests` a second a user may send for long"},
		{&l.WatchesPerUser, "max-watches-per-user", "how many `watches` a user may have open"},
		{&l.TokenReviewsPerSecond, "max-token-reviews-per-second", "how many `tokens` a second the cluster is asked about that were never good before"},
		{&l.BodyBytes, "max-body-bytes", "how many `bytes` are read of the body of a request"},
		{&l.StreamsPerConnection, "max-streams-per-connection", "how many `requests` at once one HTTP/2 connection may carry"},
	}
}

// newLimiter returns one that lets all pass when perSecond is 0.
func newLimiter(perSecond, burst int) *rate.Limiter {
	if perSecond <= 0 {
		return rate.NewLimiter(rate.Inf, 0)
	}
	return rate.NewLimiter(rate.Limit(perSecond), burst)
}

// rated refuses the requests of users that send too many.
func rated(next http.Handler, perSecond int) http.Handler {
	if perSecond <= 0 {
		return next
	}
	var mu sync.Mutex
	users := utilcache.NewLRUExpireCache(limitedUsers)
	limiterOf := func(user string) *rate.Limiter {
		mu.Lock()
		defer mu.Unlock()
		limiter, ok := users.Get(user)
		if !ok {
			limiter = newLimiter(perSecond, requestBurst*perSecond)
		}
		// A full bucket need not be remembered.
		users.Add(user, limiter, 2*requestBurst*time.Second)
		return limiter.(*rate.Limiter)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		v := visitOf(req.Context())
		if limiterOf(v.user).Allow() {
			next.ServeHTTP(w, req)
			return
		}
		v.rejection = "rate"
		registry.WriteError(w, req, apierrors.NewTooManyRequests("this user sends too many requests", 1))
	})
}

// admitted says that the connection of a request is one of a user who is allowed something.
func admitted(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		v := visitOf(req.Context())
		if connectionOf(req.Context()).prove(v.user) {
			next.ServeHTTP(w, req)
			return
		}
		v.rejection = "connections"
		retryLater(w, req, apierrors.NewTooManyRequests("this user has too many connections", 1))
	})
}

// bounded refuses what would make too many answers be written at once. Watches are counted on their own.
func bounded(next http.Handler, inFlight int) http.Handler {
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
			visitOf(req.Context()).rejection = "inflight"
			registry.WriteError(w, req, apierrors.NewTooManyRequests("the relay is busy", 1))
		}
	})
}

// brief lets a request have a short body that comes soon. The server's own timeout of reading would end watches too.
func brief(next http.Handler, maxBytes int, timeout time.Duration) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.Body != nil && req.Body != http.NoBody {
			// Where there is no deadline to set, there is no connection to hold.
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

// tally counts what each of some users has.
type tally struct {
	limit int // 0 is no limit
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
