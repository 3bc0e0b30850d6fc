// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"slices"
	"sync"
	"time"
)

// class is a kind of traffic.
type class string

const (
	// connections are short ones, at a fixed rate.
	connections class = "new connections"
	// sessions are TCP connections that last.
	sessions class = "sessions"
	// datagrams are UDP flows that last.
	datagrams class = "UDP"
	// control are short connections that do not go through the gateway: what is late there is late by the machine.
	control class = "control"
)

// span is a time between two instants.
type span struct{ From, To time.Time }

func (s span) length() time.Duration { return max(0, s.To.Sub(s.From)) }

// overlap is what two spans have in common.
func (s span) overlap(o span) span {
	if o.From.After(s.From) {
		s.From = o.From
	}
	if o.To.Before(s.To) {
		s.To = o.To
	}
	return s
}

// track is how one row of exchanges fared.
type track struct {
	Class class
	Path  string
	// Gaps are the times longer than remarkable without an exchange that succeeded.
	Gaps []span
	// Losses are exchanges, or for sessions the connections themselves, that never came to a good end.
	Losses []loss
	// Done counts exchanges that did.
	Done int
}

type loss struct {
	At  time.Time
	Why string
}

// remarkable is the shortest gap that is remembered.
const remarkable = 250 * time.Millisecond

// recorder writes a track down. It is safe for several goroutines.
type recorder struct {
	mu    sync.Mutex
	track track
	last  time.Time
}

func newRecorder(c class, path string, now time.Time) *recorder {
	return &recorder{track: track{Class: c, Path: path}, last: now}
}

// done notes an exchange that succeeded.
func (r *recorder) done(at time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.track.Done++
	r.gapUntil(at)
}

// lost notes one that did not.
func (r *recorder) lost(at time.Time, why string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.track.Losses = append(r.track.Losses, loss{at, why})
}

func (r *recorder) gapUntil(at time.Time) {
	if at.Sub(r.last) > remarkable {
		r.track.Gaps = append(r.track.Gaps, span{r.last, at})
	}
	if at.After(r.last) {
		r.last = at
	}
}

// close ends the track: what has not succeeded by then is a gap until then.
func (r *recorder) close(at time.Time) track {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.gapUntil(at)
	t := r.track
	t.Gaps, t.Losses = slices.Clone(t.Gaps), slices.Clone(t.Losses)
	return t
}
