// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
)

// fleet is a set of watchers of one server. As a gateway does, each has its own connection and a watch for each kind.
type fleet struct {
	watchers []*watcher
	events   atomic.Int64
	refused  atomic.Int64 // requests
	broken   atomic.Int64 // connections that broke or failed to open
	cancel   context.CancelFunc
	done     sync.WaitGroup
}

type watcher struct {
	*client
	streams []*stream
}

// stream is one watch, which restarts whenever it ends.
type stream struct {
	fleet *fleet
	*client
	query string

	mu       sync.Mutex
	synced   time.Time
	arrivals map[int]time.Time // by number of the write
}

// initialEventsEnd is contained in the bookmark after the initial events.
var initialEventsEnd = []byte("k8s.io/initial-events-end")

const withInitialEvents = "?watch=true&allowWatchBookmarks=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan"

// newFleet starts a watcher for each token. If versions is set, they watch from these versions of each kind and get no
// initial events.
func (w *world) newFleet(ctx context.Context, s server, tokens []string, versions map[string]string) *fleet {
	ctx, cancel := context.WithCancel(ctx)
	f := &fleet{cancel: cancel}
	for _, token := range tokens {
		each := &watcher{client: w.newClient(s, token)}
		for _, kind := range kinds {
			query := withInitialEvents
			if version := versions[kind]; version != "" {
				query = "?watch=true&allowWatchBookmarks=true&resourceVersion=" + version
			}
			one := &stream{fleet: f, client: each.client, query: kind + query, arrivals: map[int]time.Time{}}
			each.streams = append(each.streams, one)
			f.done.Go(func() { one.follow(ctx) })
		}
		f.watchers = append(f.watchers, each)
	}
	return f
}

// close ends all watches.
func (f *fleet) close() {
	f.cancel()
	f.done.Wait()
	for _, w := range f.watchers {
		w.close()
	}
}

// follow watches until ctx ends, with the same pauses between attempts as smartnatd.
func (s *stream) follow(ctx context.Context) {
	first := wait.Backoff{Duration: 500 * time.Millisecond, Factor: 2, Steps: math.MaxInt, Cap: 3 * time.Second, Jitter: 2. / 3}
	backoff := first
	for ctx.Err() == nil {
		began := time.Now()
		err := s.watch(ctx)
		if time.Since(began) > first.Cap {
			backoff = first
		}
		pause := backoff.Step()
		var refused *refusal
		switch {
		case ctx.Err() != nil:
			return
		case errors.As(err, &refused):
			s.fleet.refused.Add(1)
			if refused.after > 0 {
				pause = wait.Jitter(refused.after, 1)
			}
		default:
			s.fleet.broken.Add(1)
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// watch runs one watch to its end.
func (s *stream) watch(ctx context.Context) error {
	response, err := s.get(ctx, s.query, asGateways, false)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	if !bytes.Contains([]byte(s.query), []byte("sendInitialEvents")) {
		s.sync()
	}
	scanner, err := frames(response)
	if err != nil {
		return err
	}
	for scanner.Scan() {
		now := time.Now()
		if write, ok := markOf(scanner.Bytes()); ok {
			s.arrived(write, now)
		} else if bytes.Contains(scanner.Bytes(), initialEventsEnd) {
			s.sync()
		}
	}
	return scanner.Err()
}

func (s *stream) sync() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.synced = time.Now()
}

// arrived records the first arrival of a write, unless it is part of the initial events.
func (s *stream) arrived(write int, at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.arrivals[write]; known || s.synced.IsZero() {
		return
	}
	s.arrivals[write] = at
	s.fleet.events.Add(1)
}

// forget marks all watchers as not synced.
func (f *fleet) forget() {
	for _, w := range f.watchers {
		for _, s := range w.streams {
			s.mu.Lock()
			s.synced = time.Time{}
			s.mu.Unlock()
		}
	}
}

// waitSynced waits until all watchers are synced and returns the time of each.
func (f *fleet) waitSynced(ctx context.Context, patience time.Duration) ([]time.Time, error) {
	var all []time.Time
	err := await(ctx, patience, func() error {
		all = all[:0]
		for _, w := range f.watchers {
			if at := w.syncedAt(); !at.IsZero() {
				all = append(all, at)
			}
		}
		if len(all) < len(f.watchers) {
			return fmt.Errorf("%d of %d watchers synced (%d requests refused, %d connections broken)", len(all), len(f.watchers), f.refused.Load(), f.broken.Load())
		}
		return nil
	})
	return all, err
}

// syncedAt returns the time when the last watch synced, or the zero time.
func (w *watcher) syncedAt() (last time.Time) {
	for _, s := range w.streams {
		s.mu.Lock()
		at := s.synced
		s.mu.Unlock()
		if at.IsZero() {
			return at
		}
		if at.After(last) {
			last = at
		}
	}
	return last
}

// received returns the bytes received on all connections.
func (f *fleet) received() (n int64) {
	for _, w := range f.watchers {
		n += w.received.Load()
	}
	return n
}

// delays returns, for each write, the milliseconds until its arrival at each watcher.
func (f *fleet) delays(writes []write) [][]float64 {
	all := make([][]float64, len(writes))
	for _, w := range f.watchers {
		for _, s := range w.streams {
			s.mu.Lock()
			for i, write := range writes {
				if at, ok := s.arrivals[write.mark]; ok {
					all[i] = append(all[i], milliseconds(at.Sub(write.sent)))
				}
			}
			s.mu.Unlock()
		}
	}
	return all
}
