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
	// connections are short ones, opened at a fixed rate.
	connections class = "new connections"
	// sessions are long-lived TCP connections.
	sessions class = "sessions"
	// datagrams are long-lived UDP flows.
	datagrams class = "UDP"
	// control are short connections that bypass the gateway: their delays are the machine's.
	control class = "control"
)

// span is the time between two instants.
type span struct{ From, To time.Time }

func (s span) length() time.Duration { return max(0, s.To.Sub(s.From)) }

// overlap returns the time that two spans have in common.
func (s span) overlap(o span) span {
	if o.From.After(s.From) {
		s.From = o.From
	}
	if o.To.Before(s.To) {
		s.To = o.To
	}
	return s
}

// track records a series of exchanges over one path.
type track struct {
	Class class
	Path  string
	// Gaps are the times longer than remarkable without a successful exchange.
	Gaps []span
	// Losses are failed exchanges or, for sessions, lost connections.
	Losses []loss
	// Done counts successful exchanges.
	Done int
}

type loss struct {
	At  time.Time
	Why string
}

// remarkable is the shortest gap that is recorded.
const remarkable = 250 * time.Millisecond

// recorder fills a track. It is safe for concurrent use.
type recorder struct {
	mu    sync.Mutex
	track track
	last  time.Time
}

func newRecorder(c class, path string, now time.Time) *recorder {
	return &recorder{track: track{Class: c, Path: path}, last: now}
}

// done records a successful exchange.
func (r *recorder) done(at time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.track.Done++
	r.gapUntil(at)
}

// lost records a failed one.
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

// close ends the track: the time since the last success is a gap too.
func (r *recorder) close(at time.Time) track {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.gapUntil(at)
	t := r.track
	t.Gaps, t.Losses = slices.Clone(t.Gaps), slices.Clone(t.Losses)
	return t
}
