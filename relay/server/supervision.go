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

// supervised lets a user have so many watches, and asks time and again whether it may still watch: a watch lasts for up to
// an hour, a credential that was revoked must not. When the cluster cannot be asked, a watch goes on: what it shows stands
// still then too, and gateways live on what they know.
func supervised(next http.Handler, c *Config, m *metrics) http.Handler {
	perUser := newTally(c.Limits.WatchesPerUser)
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if !isWatch(req) {
			next.ServeHTTP(w, req)
			return
		}
		v := visitOf(req.Context())
		user := v.user
		if !perUser.take(user) {
			v.rejection = "watches"
			registry.WriteError(w, req, apierrors.NewTooManyRequests("this user has too many watches", 5))
			return
		}
		open := m.watches.WithLabelValues(known(v.info.Resource))
		open.Inc()
		ctx, cancel := context.WithCancel(req.Context())
		stop := every(ctx, c.RecheckInterval, func() {
			if err := c.mayStill(ctx, v); err != nil {
				m.watchesRevoked.Inc()
				c.Log.WithError(err).WithFields(logrus.Fields{"user": user, "client": req.RemoteAddr, "path": short(req.URL.Path)}).
					Info("a watch ends because its user may not watch any more")
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

// held has a watch that was accepted wait on the stack of the first filter.
func held(req *http.Request, watch func()) { visitOf(req.Context()).watch = watch }

// every calls f in about each interval, until it is stopped or ctx ends, without holding a goroutine meanwhile.
func every(ctx context.Context, interval time.Duration, f func()) (stop func() bool) {
	if interval <= 0 {
		return func() bool { return true }
	}
	next := func() time.Duration { return interval - rand.N(interval/5+1) }
	// The timer is handed over before it can fire into what reads it.
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

// mayStill asks again what was asked when a watch began. It fails when the answer is no, not when there is none.
func (c *Config) mayStill(ctx context.Context, v *visit) error {
	response, ok, err := c.Authenticator.AuthenticateRequest(v.credentials(authenticator.WithAudiences(ctx, c.Audiences)))
	switch {
	case errors.Is(err, errUnavailable), errors.Is(err, errBusy):
		return nil
	case err != nil:
		return err
	case !ok || response.User.GetName() != v.user:
		return errors.New("the credential is not accepted any more")
	}
	if decision, _, err := c.Authorizer.Authorize(ctx, attributesOf(v.info, response.User)); decision != authorizer.DecisionAllow && err == nil {
		return errors.New("its role was taken away")
	}
	return nil
}
