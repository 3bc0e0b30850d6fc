// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// opinion is the state of authentication and authorization of the gateway.
type opinion struct {
	user           string
	authentication error
	decision       authorizer.Decision
	authorization  error
}

// fickle is a cluster that changes its opinion and counts authentications.
type fickle struct {
	opinion atomic.Pointer[opinion]
	// said is the opinion that the last authentication used; the authorization that follows uses the same.
	said  atomic.Pointer[opinion]
	asked atomic.Int64 // number of authentications
}

func (c *fickle) AuthenticateRequest(req *http.Request) (*authenticator.Response, bool, error) {
	c.asked.Add(1)
	o := c.opinion.Load()
	c.said.Store(o)
	if req.Header.Get("Authorization") != "Bearer "+gatewayToken || o.user == "" {
		return nil, false, o.authentication
	}
	req.Header.Del("Authorization") // like the authenticators of k8s.io/apiserver
	return &authenticator.Response{User: &user.DefaultInfo{Name: o.user}}, true, nil
}

func (c *fickle) Authorize(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	o := c.said.Load()
	if a.GetVerb() != "watch" || a.GetResource() != "mappings" {
		return authorizer.DecisionNoOpinion, "", fmt.Errorf("unexpected access review: %s %s", a.GetVerb(), a.GetResource())
	}
	return o.decision, "", o.authorization
}

func TestWatchesOfThoseWhoWereRevokedEnd(t *testing.T) {
	good := opinion{user: "gateway", decision: authorizer.DecisionAllow}
	for _, test := range []struct {
		name string
		then opinion
		ends bool
	}{
		{"the token was revoked", opinion{decision: authorizer.DecisionAllow}, true},
		{"the certificate expired", opinion{authentication: errors.New("x509: certificate has expired"), decision: authorizer.DecisionAllow}, true},
		{"the credential belongs to another user", opinion{user: "other", decision: authorizer.DecisionAllow}, true},
		{"the role was removed", opinion{user: "gateway", decision: authorizer.DecisionNoOpinion}, true},
		{"access is denied", opinion{user: "gateway", decision: authorizer.DecisionDeny}, true},
		{"the API server cannot authenticate",
			opinion{authentication: fmt.Errorf("%w: timeout", errUnavailable), decision: authorizer.DecisionDeny}, false},
		{"too many unknown tokens", opinion{authentication: errBusy, decision: authorizer.DecisionDeny}, false},
		{"the API server cannot authorize",
			opinion{user: "gateway", decision: authorizer.DecisionNoOpinion, authorization: errors.New("timeout")}, false},
		{"nothing changed", good, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			bothProtocols(t, func(t *testing.T, client *http.Client) {
				c := &fickle{}
				c.opinion.Store(&good)
				var config *Config
				f := newFixture(t, func(relay *Config) {
					relay.Authenticator, relay.Authorizer, relay.RecheckInterval = c, c, 10*time.Millisecond
					config = relay
				})
				next := openWatch(t, client, "https://"+f.address+mappingsPath+"?watch=1")
				eventually(t, "another review", func() bool { return c.asked.Load() > 2 })
				c.opinion.Store(&test.then)
				ended := func() float64 { return config.count(t, "watches_revoked_total") }
				if test.ends {
					if e := next(); e != nil {
						t.Errorf("%s, want the end", e.Type)
					}
					if got := ended(); got != 1 {
						t.Errorf("%v watches were counted as revoked, want 1", got)
					}
					return
				}
				was := c.asked.Load()
				eventually(t, "another review", func() bool { return c.asked.Load() > was+2 })
				f.put(t, "a", "old")
				if e := next(); e == nil || e.Type != "ADDED" || ended() != 0 {
					t.Errorf("%+v after %v revocations, want the watch to go on", e, ended())
				}
			})
		})
	}
}

func TestNobodyIsAskedAfterTheEndOfAWatch(t *testing.T) {
	c := &fickle{}
	c.opinion.Store(&opinion{user: "gateway", decision: authorizer.DecisionAllow})
	f := newFixture(t, func(relay *Config) {
		relay.Authenticator, relay.Authorizer, relay.RecheckInterval = c, c, 10*time.Millisecond
	})
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	defer client.CloseIdleConnections()
	next := openWatch(t, client, "https://"+f.address+mappingsPath+"?watch=1&timeoutSeconds=1")
	for e := next(); e != nil; e = next() {
		t.Errorf("%s of nothing", e.Type)
	}
	// One review may be under way.
	was := c.asked.Load()
	time.Sleep(100 * time.Millisecond)
	if got := c.asked.Load(); was < 2 || got > was+1 {
		t.Errorf("%d reviews during the watch, %d after it", was, got-was)
	}
}
