// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/smartnat/smartnat/relay/watchcache"
)

// stream is a watch that was accepted. Nothing is buffered for a client: it is read from the history of the cache, at the
// pace at which it takes it.
//
// A relay has hundreds of watches, nearly all of them quiet, so what a quiet one holds is what a relay takes. The goroutine
// of its request waits for its end alone, with next to nothing on its stack. Whatever may give it something to do pokes it:
// news, its timer, the end of its request or of the relay. It is done by a goroutine that ends when there is no more.
type stream struct {
	selection
	handler   *Handler
	resource  *resource
	at        watchcache.Version
	bookmarks bool
	// initial is what there was at the beginning, if it is to be told, and marksInitial whether its end is.
	initial      []*watchcache.Entry
	marksInitial bool
	timeout      time.Duration
	encoder      *encoder
	out          *output
	ctx          context.Context

	// Those of the goroutine that works. The timer pokes when the first of both times has come.
	begun, leaving bool
	end, bookmark  time.Time
	timer          *time.Timer
	forget         func() bool

	// done is closed at the end; defect is what the watch paniced with, if it did.
	done   chan struct{}
	defect any

	mu             sync.Mutex
	working, poked bool
}

// run returns when the watch has ended.
func (s *stream) run() {
	s.open()
	<-s.done
	if s.defect != nil {
		panic(s.defect)
	}
}

// open has the watch begin, and be poked from then on.
func (s *stream) open() {
	s.working, s.poked = true, true
	s.timer = time.AfterFunc(s.timeout, s.poke)
	s.forget = context.AfterFunc(s.ctx, s.poke)
	s.resource.streams.add(s)
	go s.work()
}

// close has nothing touch the answer any more.
func (s *stream) close() {
	s.timer.Stop()
	s.forget()
	s.resource.streams.remove(s)
	s.out.end()
	close(s.done)
}

// poke has the watch do what there is to do, if it has not ended.
func (s *stream) poke() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.poked = true
	if !s.working {
		s.working = true
		go s.work()
	}
}

// goesOn says whether there was a poke that nothing was done about yet.
func (s *stream) goesOn() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.working, s.poked = s.poked, false
	return s.working
}

func (s *stream) work() {
	defer func() {
		if cause := recover(); cause != nil {
			s.defect = asideOf(cause)
			s.close()
		}
	}()
	for s.goesOn() {
		if !s.turn() {
			s.close() // and is at work for ever, so that no poke does anything
			return
		}
	}
}

// turn writes what there is to write. It returns false at the end. An error of writing is one: there is nobody left to tell.
func (s *stream) turn() bool {
	if s.ctx.Err() != nil || !s.begun && !s.begin() {
		return false
	}
	now := time.Now()
	select {
	case <-s.handler.stopping:
		if !s.leaving {
			s.leaving, s.end = true, now.Add(s.handler.leaveIn())
		}
	default:
	}
	switch {
	case !now.Before(s.end):
		_ = s.writeReached()
		return false
	case !now.Before(s.bookmark):
		if s.writeReached() != nil {
			return false
		}
		s.bookmark = now.Add(bookmarkEvery)
	default:
		if s.writeChanges() != nil {
			return false
		}
	}
	s.timer.Reset(time.Until(earlier(s.end, s.bookmark)))
	return true
}

func (s *stream) begin() bool {
	s.begun = true
	if s.out.begin(s.encoder.encoding.streamType()) != nil || s.writeInitial() != nil {
		return false
	}
	now := time.Now()
	s.end, s.bookmark = now.Add(s.timeout), now.Add(bookmarkEvery)
	return true
}

// leaveIn is how long a watch goes on once the relay ends.
func (h *Handler) leaveIn() time.Duration {
	if h.Spread <= 0 {
		return 0
	}
	return rand.N(h.Spread)
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// streams are the open watches of a resource.
type streams struct {
	mu  sync.Mutex
	all map[*stream]struct{}
	// none is closed when the last one has ended.
	none chan struct{}
}

func (all *streams) add(s *stream) {
	all.mu.Lock()
	defer all.mu.Unlock()
	if len(all.all) == 0 {
		all.all, all.none = map[*stream]struct{}{}, make(chan struct{})
		go all.wake(s.resource.Resource, s.handler.stopping, all.none)
	}
	all.all[s] = struct{}{}
}

func (all *streams) remove(s *stream) {
	all.mu.Lock()
	defer all.mu.Unlock()
	delete(all.all, s)
	if len(all.all) == 0 {
		close(all.none)
	}
}

// wake pokes all of them whenever there is news, and when the relay ends.
func (all *streams) wake(of *watchcache.Resource, stopping, none <-chan struct{}) {
	for {
		news := of.News()
		all.poke()
		select {
		case <-news:
		case <-stopping:
			stopping = nil
		case <-none:
			return
		}
	}
}

func (all *streams) poke() {
	all.mu.Lock()
	defer all.mu.Unlock()
	for s := range all.all {
		s.poke()
	}
}
