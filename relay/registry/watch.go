// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"math/rand/v2"
	"net/http"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/endpoints/request"

	"github.com/smartnat/smartnat/relay/watchcache"
)

const (
	// minWatch is the minimum duration of a watch for which the client sets no timeout. The maximum is twice that, at
	// random, so that watches which a restart has synchronized drift apart.
	minWatch = 30 * time.Minute
	// bookmarkEvery is the interval of bookmarks.
	bookmarkEvery = time.Minute
)

// watch returns the stream of a watch request. It ends with the client, its timeout or the relay.
func (h *Handler) watch(
	w http.ResponseWriter, req *http.Request, r *resource, source func() (served, bool), info *request.RequestInfo,
) (*stream, error) {
	served, known := source()
	if !known {
		return nil, errUnknownGateway()
	}
	accepted, err := r.negotiate(req, ofOne, served.nodes)
	if err != nil {
		return nil, err
	}
	q, err := parseQuery(req, info)
	if err != nil {
		return nil, err
	}
	include, err := includeObject(req.URL.Query())
	if err != nil {
		return nil, err
	}
	var initial []*watchcache.Entry
	from := q.version
	switch {
	case q.sendsInitialEvents():
		if err := h.atLeast(q.version); err != nil {
			return nil, err
		}
		initial, from = served.List()
	case from == 0:
		_, from = served.List()
	}
	if _, _, _, err := served.Since(from); err != nil || from < served.nodesSince {
		return nil, expired(q.ResourceVersion)
	}
	return &stream{
		selection: q.selection, handler: h, resource: r, source: source, nodesSince: served.nodesSince, at: from, bookmarks: q.AllowWatchBookmarks,
		initial: initial, marksInitial: q.SendInitialEvents != nil && *q.SendInitialEvents, timeout: q.timeout(),
		encoder: &encoder{accepted: accepted, include: include, resource: r}, out: newOutput(w),
		ctx: req.Context(), done: make(chan struct{}),
	}, nil
}

// sendsInitialEvents reports whether the watch begins with the existing objects. For compatibility, it also does for
// clients that name no version and do not set sendInitialEvents.
func (q *query) sendsInitialEvents() bool {
	if q.SendInitialEvents != nil {
		return *q.SendInitialEvents
	}
	return q.version == 0
}

func (q *query) timeout() time.Duration {
	if q.TimeoutSeconds != nil && *q.TimeoutSeconds > 0 {
		return time.Duration(*q.TimeoutSeconds) * time.Second
	}
	return minWatch + rand.N(minWatch)
}

func (s *stream) writeInitial() error {
	initial := s.initial
	s.initial = nil
	for _, e := range initial {
		if !s.matches(e) {
			continue
		}
		if err := s.write(watch.Added, e); err != nil {
			return err
		}
	}
	if s.marksInitial {
		return s.writeBookmark(true)
	}
	return s.out.flush()
}

// writeChanges writes all pending changes.
func (s *stream) writeChanges() error {
	for {
		served, known := s.source()
		if !known {
			return nil // its credential is gone too, which ends the watch soon
		}
		events, at, _, err := served.Since(s.at)
		if err != nil || served.nodesSince != s.nodesSince {
			// The client fell behind the history, or knows endpoints with, or without, their nodes.
			return s.writeError(expired(s.at.String()))
		}
		if len(events) == 0 {
			s.at = at
			return nil
		}
		var first time.Time
		written := 0
		for _, event := range events {
			if t, e := s.seen(event); e != nil {
				if err := s.write(t, e); err != nil {
					return err
				}
				if written++; written == 1 {
					first = event.At
				}
			}
			s.at = event.Version
		}
		if written == 0 {
			continue
		}
		if err := s.out.flush(); err != nil {
			return err
		}
		if sent := s.handler.Sent; sent != nil {
			sent(s.resource.Resource, written, time.Since(first))
		}
	}
}

// seen returns how an event looks through the selection: an object that stops matching is deleted, one that begins to
// match is added.
func (s *stream) seen(event watchcache.Event) (watch.EventType, *watchcache.Entry) {
	is := event.Type != watch.Deleted && s.matches(event.Object)
	was := event.Type != watch.Added && s.matches(event.Old)
	switch {
	case is && was && event.Minor && s.encoder.view != watchcache.Whole:
		return "", nil
	case is && was:
		return watch.Modified, event.Object
	case is:
		return watch.Added, event.Object
	case was && event.Type == watch.Deleted:
		return watch.Deleted, event.Object
	case was:
		return watch.Deleted, event.Old.At(event.Version)
	}
	return "", nil
}

func (s *stream) write(t watch.EventType, e *watchcache.Entry) error {
	object, err := s.encoder.entry(e)
	return s.event(t, object, err)
}

// event writes an object, or returns err if encoding it failed.
func (s *stream) event(t watch.EventType, object encoded, err error) error {
	if err != nil {
		return err
	}
	return s.encoder.encoding.event(s.out.writer(), t, object)
}

// writeReached writes pending changes and a bookmark. The bookmark's version also advances with changes of other kinds.
func (s *stream) writeReached() error {
	if err := s.writeChanges(); err != nil {
		return err
	}
	return s.writeBookmark(false)
}

// writeBookmark writes a bookmark with the current version if the client asked for bookmarks.
func (s *stream) writeBookmark(initialEventsEnd bool) error {
	if s.bookmarks {
		object, err := s.encoder.bookmark(s.at, initialEventsEnd)
		if err := s.event(watch.Bookmark, object, err); err != nil {
			return err
		}
	}
	return s.out.flush()
}

// writeError writes the last event of a watch and returns cause.
func (s *stream) writeError(cause error) error {
	status, err := s.encoder.status(cause)
	if err := s.event(watch.Error, status, err); err != nil {
		return err
	}
	if err := s.out.flush(); err != nil {
		return err
	}
	return cause
}

// initialEventsEnd returns the annotation of the bookmark after the initial events.
func initialEventsEnd() map[string]string {
	return map[string]string{metav1.InitialEventsAnnotationKey: "true"}
}
