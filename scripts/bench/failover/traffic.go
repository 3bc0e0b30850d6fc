// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/smartnat/smartnat/scripts/lab"
)

const (
	// sessionInterval is the time between two messages of a session, flowInterval that between two datagrams of a flow.
	sessionInterval, flowInterval = 200 * time.Millisecond, 10 * time.Millisecond
	// newInterval is the time between two new connections in one way, and newTimeout bounds each. The kernel repeats a SYN after a second.
	newInterval, newTimeout = 50 * time.Millisecond, 3 * time.Second
	// lostAfter is the time without an answer after which a session is lost.
	lostAfter = 15 * time.Second
)

// way is a direction in which connections are opened.
type way struct{ name, from, to string }

func ways() []way {
	return []way{
		{"masqueraded IPv4", lab.Client, lab.Join(lab.VirtualExternal, 8080)},
		{"masqueraded IPv6", lab.Client, lab.Join(lab.VirtualExternalv6, 8080)},
		{"client's address kept, IPv4", lab.Client, lab.Join(lab.VirtualExternal, 8090)},
		{"client's address kept, IPv6", lab.Client, lab.Join(lab.VirtualExternalv6, 8090)},
		{"egress IPv4", "p1.default", lab.Join(lab.ClientAddress, outsidePort)},
		{"egress IPv6", "p2.default", lab.Join(lab.ClientAddress6, outsidePort)},
	}
}

// traffic is what clients do during a case.
type traffic struct {
	world    *world
	sessions []*lab.Flow
	ended    chan struct{}
	running  sync.WaitGroup

	mu  sync.Mutex
	got counts
	// silences has the longest silence of each session since begin.
	silences map[*lab.Flow]time.Duration
}

// counts are those since begin.
type counts struct {
	flow, fresh    time.Duration
	moved          map[*lab.Flow]bool
	opened, failed int
	lost, failures map[string]int
}

// startTraffic opens all sessions and flows.
func (w *world) startTraffic(ctx context.Context, sessions int) (*traffic, error) {
	t := &traffic{world: w, ended: make(chan struct{})}
	t.begin()
	t.got.lost = map[string]int{}
	for i := range sessions {
		way := ways()[i%len(ways())]
		f, err := t.open(ctx, "tcp", way)
		if err != nil {
			return nil, fmt.Errorf("opening session %d, %s: %w", i, way.name, err)
		}
		t.sessions = append(t.sessions, f)
		t.running.Go(func() { t.talk(f, way) })
	}
	for _, way := range ways() {
		f, err := t.open(ctx, "udp", way)
		if err != nil {
			return nil, fmt.Errorf("opening a flow, %s: %w", way.name, err)
		}
		t.running.Go(func() { t.send(f) })
		go t.receive(f)
		t.running.Go(func() { t.renew(way) })
	}
	return t, nil
}

// open opens a session or flow, and exchanges a message. The first connections may meet a box that was primary a moment ago.
func (t *traffic) open(ctx context.Context, network string, way way) (f *lab.Flow, err error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	err = lab.Poll(ctx, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, newTimeout)
		defer cancel()
		if f, err = t.world.Host(way.from).OpenFlow(ctx, network, way.to, 0); err != nil {
			return err
		}
		if _, err = f.Echo(ctx); err != nil {
			_ = f.Close()
		}
		return err
	})
	return f, err
}

// begin forgets the silences and counts so far.
func (t *traffic) begin() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.silences = map[*lab.Flow]time.Duration{}
	t.got = counts{moved: map[*lab.Flow]bool{}, lost: t.got.lost, failures: map[string]int{}}
}

// over waits for d, and reports whether the traffic ends.
func (t *traffic) over(d time.Duration) bool {
	select {
	case <-t.ended:
		return true
	case <-time.After(d):
		return false
	}
}

// talk exchanges numbered messages on a session.
func (t *traffic) talk(f *lab.Flow, way way) {
	for !t.over(sessionInterval) {
		began := time.Now()
		ctx, cancel := context.WithTimeout(context.Background(), lostAfter)
		_, err := f.Echo(ctx)
		cancel()
		t.mu.Lock()
		if err != nil {
			t.got.lost[way.name+": "+reason(err)]++
			t.mu.Unlock()
			return
		}
		t.silences[f] = max(t.silences[f], time.Since(began))
		t.mu.Unlock()
	}
}

// reason returns an error without addresses and ports.
func reason(err error) string {
	if e, ok := errors.AsType[*net.OpError](err); ok {
		return e.Op + ": " + e.Err.Error()
	}
	return err.Error()
}

func (t *traffic) send(f *lab.Flow) {
	defer func() { _ = f.Close() }()
	for !t.over(flowInterval) {
		_, _ = f.Conn.Write([]byte("x")) // what is lost is missed by receive
	}
}

// receive measures the time between two answers, and sees whether the flow comes from elsewhere.
func (t *traffic) receive(f *lab.Flow) {
	buffer := make([]byte, 4096)
	var last time.Time
	var from lab.Answer
	_ = f.Conn.SetDeadline(time.Time{}) // that of the first message
	for {
		n, err := f.Conn.Read(buffer)
		select {
		case <-t.ended:
			return
		default:
		}
		if err != nil { // an ICMP error of an earlier datagram
			time.Sleep(time.Millisecond)
			continue
		}
		answer, err := lab.ParseAnswer(buffer[:n])
		if err != nil {
			continue
		}
		now := time.Now()
		t.mu.Lock()
		if !last.IsZero() {
			t.got.flow = max(t.got.flow, now.Sub(last))
			if answer.Client != from.Client || answer.Pod != from.Pod {
				t.got.moved[f] = true
			}
		}
		t.mu.Unlock()
		last, from = now, answer
	}
}

// renew opens connections one after another, each for one message.
func (t *traffic) renew(way way) {
	var mu sync.Mutex
	last := time.Now()
	for !t.over(newInterval) {
		t.running.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), newTimeout)
			defer cancel()
			_, err := t.world.Host(way.from).EchoTCP(ctx, way.to)
			mu.Lock()
			defer mu.Unlock()
			t.mu.Lock()
			defer t.mu.Unlock()
			if err != nil {
				t.got.failed++
				t.got.failures[way.name+": "+reason(err)]++
				return
			}
			t.got.opened++
			t.got.fresh = max(t.got.fresh, time.Since(last))
			last = time.Now()
		})
	}
}

// result returns the figures since begin.
func (t *traffic) result() result {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := result{
		Sessions: len(t.sessions), Flow: t.got.flow.Seconds(), Fresh: t.got.fresh.Seconds(), Moved: len(t.got.moved),
		Opened: t.got.opened, Failed: t.got.failed, Lost: map[string]int{}, Failures: maps.Clone(t.got.failures),
	}
	r.Alive = len(t.sessions)
	for why, n := range t.got.lost {
		r.Lost[why] = n
		r.Alive -= n
	}
	var all []time.Duration
	for _, d := range t.silences {
		all = append(all, d)
	}
	if len(all) > 0 {
		slices.Sort(all)
		r.Silence, r.MaxSilence = all[len(all)/2].Seconds(), all[len(all)-1].Seconds()
	}
	return r
}

// end ends the traffic. A session that waits for an answer gets it, or is lost.
func (t *traffic) end() result {
	close(t.ended)
	t.running.Wait()
	r := t.result()
	for _, f := range t.sessions {
		_ = f.Close()
	}
	return r
}
