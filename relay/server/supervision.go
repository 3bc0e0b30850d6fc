// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/sirupsen/logrus"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/smartnat/smartnat/relay/registry"
)

// withWatchRecheck limits the watches of a user and periodically authorizes open watches again: a watch lasts for up to an hour,
// and a revoked credential must not. If the API server does not answer, a watch goes on: the relay has no new data to leak
// then, and gateways depend on the data that they have.
func withWatchRecheck(next http.Handler, c *Config, m *metrics) http.Handler {
	perUser := newTally(c.Limits.WatchesPerUser)
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if !isWatch(req) {
			next.ServeHTTP(w, req)
			return
		}
		v := requestStateOf(req.Context())
		user := v.user
		if !perUser.take(user) {
			v.rejection = "watches"
			registry.WriteError(w, req, apierrors.NewTooManyRequests("this user has too many watches", 5))
			return
		}
		open := m.watches.WithLabelValues(m.known(v.info.Resource))
		open.Inc()
		ctx, cancel := context.WithCancel(req.Context())
		stop := every(ctx, c.RecheckInterval, func() {
			if err := c.mayStill(ctx, v); err != nil {
				m.watchesRevoked.Inc()
				c.Log.WithError(err).WithFields(logrus.Fields{"user": user, "client": req.RemoteAddr, "path": short(req.URL.Path)}).
					Info("ending watch, its user lost access")
				cancel()
			}
		})
		v.over = func() {
			stop()
			cancel()
			open.Dec()
			perUser.giveBack(user)
		}
		next.ServeHTTP(w, req.WithContext(ctx))
	})
}

// holdWatch hands an accepted watch to recoverAndRecord, whose goroutine serves it.
func holdWatch(req *http.Request, watch func()) { requestStateOf(req.Context()).watch = watch }

// every calls f about once per interval, until stop is called or ctx ends. It holds no goroutine between calls.
func every(ctx context.Context, interval time.Duration, f func()) (stop func() bool) {
	if interval <= 0 {
		return func() bool { return true }
	}
	next := func() time.Duration { return interval - rand.N(interval/5+1) }
	// The channel hands the timer to tick, which may fire before AfterFunc returns.
	ready := make(chan *time.Timer, 1)
	tick := func() {
		timer := <-ready
		ready <- timer
		if ctx.Err() != nil {
			return
		}
		f()
		if ctx.Err() == nil {
			timer.Reset(next())
		}
	}
	timer := time.AfterFunc(next(), tick)
	ready <- timer
	return timer.Stop
}

// mayStill repeats the authentication and authorization that began a watch. It fails if access is denied, not if the API
// server does not answer.
func (c *Config) mayStill(ctx context.Context, v *requestState) error {
	response, ok, err := c.Authenticator.AuthenticateRequest(v.credentials(authenticator.WithAudiences(ctx, c.Audiences)))
	switch {
	case errors.Is(err, errUnavailable), errors.Is(err, errBusy):
		return nil
	case err != nil:
		return err
	case !ok || response.User.GetName() != v.user:
		return errors.New("the credential is no longer accepted")
	}
	if decision, _, err := c.Authorizer.Authorize(ctx, attributesOf(v.info, response.User)); decision != authorizer.DecisionAllow && err == nil {
		return errors.New("the user is no longer authorized")
	}
	return nil
}
