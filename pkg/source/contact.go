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

// contact tells once when the server is lost and once when it is back, however often client-go tries in between.
type contact struct {
	log logrus.FieldLogger
	now func() time.Time

	mu    sync.Mutex
	state Contact
	// failing are the requests that have not succeeded since: a resource whose list works and whose watch does not
	// is no contact.
	failing map[request]bool
}

// request is what was asked for: "list" and "watch" of a resource, and "events", which a watch that was begun may bring or not.
type request struct{ resource, verb string }

func newContact(log logrus.FieldLogger) *contact {
	return &contact{log: log, now: time.Now, failing: map[request]bool{}}
}

// judge observes how a request went, and has the next one go elsewhere where it failed; it reports whether it did. What is part of the
// handshake is no failure, and no contact either.
func (c *contact) judge(ctx context.Context, by *answeredBy, resource, verb string, asked metav1.ListOptions, err error) (failed bool) {
	if isHandshake(asked, err) {
		return false
	}
	if err != nil {
		by.leave()
	}
	c.observe(ctx, by.server, resource, verb, err)
	return err != nil
}

// observe takes the server that answered, where one did.
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
		c.state.Why = resource + ": " + inShort(server, err)
	} else {
		if verb != "watch" { // what it brings is yet to be seen
			c.state.Last = now
		}
		delete(c.failing, request{resource, verb})
		if verb == "events" {
			// A watch may bring what a list brought before.
			delete(c.failing, request{resource, "list"})
		}
	}
	switch after := len(c.failing); {
	case before == 0 && after > 0:
		c.state.Lost, c.state.Since = true, now
		c.log.WithError(err).WithFields(logrus.Fields{"resource": resource, "since": now.Format(time.RFC3339)}).
			Warn("lost contact; going on with what is known, and trying again")
	case before > 0 && after == 0:
		c.log.WithField("after", now.Sub(c.state.Since).Round(time.Second).String()).Info("contact is back")
		c.state.Lost, c.state.Since, c.state.Why = false, time.Time{}, ""
	}
}

func (c *contact) get() Contact {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state
}

// inShort is one line that names the server, without the URL of the request: it is long, and another one each time.
func inShort(server string, err error) string {
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

// isHandshake reports whether an error is part of how client-go and the server find together: what was asked to go on from is too
// old, or newer than all that the server has, or the server does not send all objects in a watch. What client-go asks for then
// can be refused by neither, so that whoever says nothing else is lost.
func isHandshake(asked metav1.ListOptions, err error) bool {
	switch {
	case apierrors.IsResourceExpired(err), apierrors.IsGone(err), apierrors.HasStatusCause(err, metav1.CauseTypeResourceVersionTooLarge):
		return asked.Continue != "" || asked.ResourceVersion != "" && asked.ResourceVersion != "0"
	case apierrors.IsInvalid(err):
		return asked.SendInitialEvents != nil
	}
	return false
}
