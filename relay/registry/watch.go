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
	// minWatch is how long a watch lasts at least when the client does not say; up to twice as long, so that those of a
	// relay that was restarted do not end together for ever.
	minWatch = 30 * time.Minute
	// bookmarkEvery is how often a quiet watch is told the version that it has reached.
	bookmarkEvery = time.Minute
)

// watch returns what answers with the changes of a kind until the client, its timeout or the relay ends it.
func (h *Handler) watch(w http.ResponseWriter, req *http.Request, r *resource, info *request.RequestInfo) (*stream, error) {
	accepted, err := r.negotiate(req, ofOne)
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
		initial, from = r.List()
	case from == 0:
		_, from = r.List()
	}
	if _, _, _, err := r.Since(from); err != nil {
		return nil, expired(q.ResourceVersion)
	}
	return &stream{
		selection: q.selection, handler: h, resource: r, at: from, bookmarks: q.AllowWatchBookmarks,
		initial: initial, marksInitial: q.SendInitialEvents != nil && *q.SendInitialEvents, timeout: q.timeout(),
		encoder: &encoder{accepted: accepted, include: include, resource: r}, out: newOutput(w),
		ctx: req.Context(), done: make(chan struct{}),
	}, nil
}

// sendsInitialEvents says whether the watch begins with what there is already. Clients that name no version get that
// too, from before they could ask for it.
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

// writeChanges writes all changes that there are.
func (s *stream) writeChanges() error {
	for {
		events, at, _, err := s.resource.Since(s.at)
		if err != nil {
			// The client was slower than the history is long.
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
			sent(s.resource.GroupVersionResource.Resource, written, time.Since(first))
		}
	}
}

// seen says how a change looks through the selection: what leaves it was deleted, what enters it was added.
func (s *stream) seen(event watchcache.Event) (watch.EventType, *watchcache.Entry) {
	is := event.Type != watch.Deleted && s.matches(event.Object)
	was := event.Type != watch.Added && s.matches(event.Old)
	switch {
	case is && was && event.Minor && s.encoder.view == watchcache.ForGateway:
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

// event writes an object, or returns the error with which it was encoded.
func (s *stream) event(t watch.EventType, object encoded, err error) error {
	if err != nil {
		return err
	}
	return s.encoder.encoding.event(s.out.writer(), t, object)
}

// writeReached writes what there is and then the version that it leads to, which changes of other kinds move on too.
func (s *stream) writeReached() error {
	if err := s.writeChanges(); err != nil {
		return err
	}
	return s.writeBookmark(false)
}

// writeBookmark tells a client that asked for it the version that it has reached.
func (s *stream) writeBookmark(initialEventsEnd bool) error {
	if s.bookmarks {
		object, err := s.encoder.bookmark(s.at, initialEventsEnd)
		if err := s.event(watch.Bookmark, object, err); err != nil {
			return err
		}
	}
	return s.out.flush()
}

// writeError writes the last event of a watch.
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

// initialEventsEnd is the annotation of the bookmark that ends the initial events.
func initialEventsEnd() map[string]string {
	return map[string]string{metav1.InitialEventsAnnotationKey: "true"}
}
