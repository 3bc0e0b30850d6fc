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

// stream is an accepted watch. It buffers no events for the client, but reads them from the history of the cache as fast
// as the client accepts them.
//
// A relay has hundreds of watches, nearly all of them quiet, so a quiet watch must be small. The goroutine of its request
// only waits for the end, with an almost empty stack. New events, the timer, and the end of the request or of the relay
// wake the stream, which starts a goroutine that works until nothing is left to do.
type stream struct {
	selection
	handler  *Handler
	resource *resource
	// source returns what the client sees now, or false if it is no longer known. nodesSince is that of its first answer.
	source     func() (served, bool)
	nodesSince watchcache.Version
	at         watchcache.Version
	bookmarks  bool
	// initial holds the initial events to send, if any. marksInitial asks for a bookmark at their end.
	initial      []*watchcache.Entry
	marksInitial bool
	timeout      time.Duration
	encoder      *encoder
	out          *output
	ctx          context.Context

	// Used by the working goroutine only. The timer fires at the earlier of end and bookmark.
	begun, leaving bool
	end, bookmark  time.Time
	timer          *time.Timer
	forget         func() bool

	// done is closed at the end. defect is the cause if the watch panicked.
	done   chan struct{}
	defect any

	mu             sync.Mutex
	working, woken bool
}

// run blocks until the watch has ended.
func (s *stream) run() {
	s.open()
	<-s.done
	if s.defect != nil {
		panic(s.defect)
	}
}

// open starts the watch.
func (s *stream) open() {
	s.working, s.woken = true, true
	s.timer = time.AfterFunc(s.timeout, s.wake)
	s.forget = context.AfterFunc(s.ctx, s.wake)
	s.resource.streams.add(s)
	go s.loop()
}

// close ends all use of the ResponseWriter.
func (s *stream) close() {
	s.timer.Stop()
	s.forget()
	s.resource.streams.remove(s)
	s.out.end()
	close(s.done)
}

// wake lets the watch do pending work, unless it has ended.
func (s *stream) wake() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.woken = true
	if !s.working {
		s.working = true
		go s.loop()
	}
}

// goesOn reports whether there was a wake since the last call. If not, the watch is no longer working.
func (s *stream) goesOn() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.working, s.woken = s.woken, false
	return s.working
}

func (s *stream) loop() {
	defer func() {
		if cause := recover(); cause != nil {
			s.defect = panicOf(cause)
			s.close()
		}
	}()
	for s.goesOn() {
		if !s.step() {
			s.close() // working stays set, so later wakes do nothing
			return
		}
	}
}

// step writes pending events. It returns false at the end of the watch. A failed write ends the watch without an error,
// because there is no client left to report it to.
func (s *stream) step() bool {
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

// leaveIn returns the random time that a watch goes on after shutdown begins.
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
	// none is closed when the last watch has ended.
	none chan struct{}
}

func (all *streams) add(s *stream) {
	all.mu.Lock()
	defer all.mu.Unlock()
	if len(all.all) == 0 {
		all.all, all.none = map[*stream]struct{}{}, make(chan struct{})
		go all.wakeOnChange(s.resource.whole, s.handler.stopping, all.none)
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

// wakeOnChange wakes all watches on new events and on shutdown.
func (all *streams) wakeOnChange(of *watchcache.Resource, stopping, none <-chan struct{}) {
	for {
		changed := of.Changed()
		all.wake()
		select {
		case <-changed:
		case <-stopping:
			stopping = nil
		case <-none:
			return
		}
	}
}

func (all *streams) wake() {
	all.mu.Lock()
	defer all.mu.Unlock()
	for s := range all.all {
		s.wake()
	}
}
