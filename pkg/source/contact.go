// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package source

import (
	"context"
	"errors"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// contact logs once when the connection to the server is lost and once when it is back, however often client-go retries.
type contact struct {
	log logrus.FieldLogger
	now func() time.Time

	mu    sync.Mutex
	state Contact
	// failing holds the requests whose last attempt failed. The connection counts as lost while any is left, for example
	// if a list works but its watch does not.
	failing map[request]bool
}

// request identifies a kind of request: "list" or "watch" of a resource, or "events" for the content of an open watch.
type request struct{ resource, verb string }

func newContact(log logrus.FieldLogger) *contact {
	return &contact{log: log, now: time.Now, failing: map[request]bool{}}
}

// recordResult records the result of a request and, on failure, moves the next one to another server. It reports whether the
// request failed. An error that is part of the handshake counts neither as failure nor as success.
func (c *contact) recordResult(ctx context.Context, by *answeredBy, resource, verb string, asked metav1.ListOptions, err error) (failed bool) {
	if isHandshake(asked, err) {
		return false
	}
	if err != nil {
		by.leave()
	}
	c.observe(ctx, by.server, resource, verb, err)
	return err != nil
}

// observe records a result. server is empty if no server answered.
func (c *contact) observe(ctx context.Context, server, resource, verb string, err error) {
	if ctx.Err() != nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	now, before := c.now(), len(c.failing)
	if err != nil {
		c.failing[request{resource, verb}] = true
		c.state.Failures++
		c.state.Why = resource + ": " + summarize(server, err)
	} else if verb != "watch" { // an open watch may still bring nonsense: its events count
		c.state.Last = now
		delete(c.failing, request{resource, verb})
		if verb == "events" {
			// A working watch supersedes what failed on the way to it.
			delete(c.failing, request{resource, "watch"})
			delete(c.failing, request{resource, "list"})
		}
	}
	switch after := len(c.failing); {
	case before == 0 && after > 0:
		c.state.Lost, c.state.Since = true, now
		c.log.WithError(err).WithFields(logrus.Fields{"resource": resource, "since": now.Format(time.RFC3339)}).
			Warn("lost connection to server, keeping last known objects")
	case before > 0 && after == 0:
		c.log.WithField("after", now.Sub(c.state.Since).Round(time.Second).String()).Info("reconnected to server")
		c.state.Lost, c.state.Since, c.state.Why = false, time.Time{}, ""
	}
}

func (c *contact) get() Contact {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state
}

// summarize returns err on one line with the name of the server, but without the URL of the request, which is long and
// differs each time.
func summarize(server string, err error) string {
	if inner := new(url.Error); errors.As(err, &inner) {
		err = inner.Err
		if asked, parseErr := url.Parse(inner.URL); parseErr == nil && server == "" {
			server = asked.Host
		}
	}
	text := strings.Join(strings.Fields(err.Error()), " ")
	if server == "" || strings.Contains(text, server) {
		return text
	}
	return server + ": " + text
}

// isHandshake reports whether an error belongs to the negotiation between client-go and the server: the requested version
// is too old or newer than the server's, or the server does not support WatchList. client-go then sends a request that
// such an error cannot answer; a server that still sends one counts as lost.
func isHandshake(asked metav1.ListOptions, err error) bool {
	switch {
	case apierrors.IsResourceExpired(err), apierrors.IsGone(err), apierrors.HasStatusCause(err, metav1.CauseTypeResourceVersionTooLarge):
		return asked.Continue != "" || asked.ResourceVersion != "" && asked.ResourceVersion != "0"
	case apierrors.IsInvalid(err):
		return asked.SendInitialEvents != nil
	}
	return false
}
