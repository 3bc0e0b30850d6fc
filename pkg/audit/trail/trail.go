// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package trail logs the Records of package audit, a line each. It logs them in order, at a pace that the journal takes in, and never blocks
// its caller. If lines wait, a namespace may only have as many as there is room left for the others, so no tenant can push out the lines of
// another one. It counts lines that are left out, and says so in the log.
package trail

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/time/rate"

	"github.com/smartnat/smartnat/pkg/audit"
	"github.com/smartnat/smartnat/pkg/finding"
)

const (
	// linesPerSecond and burst stay below the limit of the journal (RateLimitBurst=10000 in RateLimitIntervalSec=30s), from which on it drops
	// any line of a service.
	linesPerSecond, burst = 200, 2000
	// room is the number of lines that may wait, some 25 MB.
	room = 100_000
	// maxSources is the number of networks that a line names.
	maxSources = 8
)

// Options configures a Trail.
type Options struct {
	Log logrus.FieldLogger
	// Count, if set, counts each Record, whether its line is logged or left out.
	Count func(audit.Record)
}

// Trail logs what changes from one report to the next. It is safe for concurrent use.
type Trail struct {
	Options
	pace *rate.Limiter
	room int
	lost atomic.Uint64

	mu   sync.Mutex
	last *finding.Report
	// waiting are the lines to log; waitingOf counts them, and leftOut those that there was no room for, by namespace.
	waiting   []line
	waitingOf map[string]int
	leftOut   map[string]int
	// wake has an item while lines may wait.
	wake chan struct{}
}

type line struct {
	audit.Record
	at time.Time
}

// New returns a Trail that logs nothing until Run.
func New(options Options) *Trail {
	return &Trail{
		Options: options, pace: rate.NewLimiter(linesPerSecond, burst), room: room,
		waitingOf: map[string]int{}, leftOut: map[string]int{}, wake: make(chan struct{}, 1),
	}
}

// Lost returns the number of lines that were left out.
func (t *Trail) Lost() uint64 { return t.lost.Load() }

// Follow takes a report whose State is in effect since a moment ago. The first one is the base: all that it has in effect is one line, because a
// start changes nothing. Follow never blocks.
func (t *Trail) Follow(now *finding.Report, at time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	before := t.last
	t.last = now
	if before == nil {
		t.Log.WithFields(logrus.Fields{"audit": "base", "frontends": len(now.State.Forwards), "refused": len(now.Refused)}).Info("auditing changes from here on")
		return
	}
	for _, r := range audit.Diff(before, now) {
		if t.Count != nil {
			t.Count(r)
		}
		t.add(line{r, at})
	}
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

func (t *Trail) add(l line) {
	namespace := namespaceOf(l)
	if t.waitingOf[namespace] >= t.room-len(t.waiting) {
		t.countLeftOut(namespace)
		return
	}
	t.waiting = append(t.waiting, l)
	t.waitingOf[namespace]++
}

func (t *Trail) countLeftOut(namespace string) {
	t.leftOut[namespace]++
	t.lost.Add(1)
}

// leaveOut leaves out a line that was taken, and all that wait.
func (t *Trail) leaveOut(taken line) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.countLeftOut(namespaceOf(taken))
	for _, l := range t.waiting {
		t.countLeftOut(namespaceOf(l))
	}
	t.waiting, t.waitingOf = nil, map[string]int{}
}

// take returns the next line, and the namespaces whose lines were left out after it.
func (t *Trail) take() (next line, leftOut map[string]int, found bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.waiting) == 0 {
		t.waiting = nil
		leftOut, t.leftOut = t.leftOut, map[string]int{}
		return line{}, leftOut, false
	}
	next, t.waiting = t.waiting[0], t.waiting[1:]
	namespace := namespaceOf(next)
	if t.waitingOf[namespace]--; t.waitingOf[namespace] == 0 {
		delete(t.waitingOf, namespace)
		if n := t.leftOut[namespace]; n > 0 {
			leftOut = map[string]int{namespace: n}
			delete(t.leftOut, namespace)
		}
	}
	return next, leftOut, true
}

func namespaceOf(l line) string {
	namespace, _, _ := strings.Cut(l.Mapping, "/")
	return namespace
}

// Run logs until ctx ends, and then as many of the waiting lines as the journal takes at once. The others are left out.
func (t *Trail) Run(ctx context.Context) {
	atEnd := burst
	for {
		next, leftOut, found := t.take()
		if found && t.pace.Wait(ctx) != nil { // only when ctx ends
			atEnd--
		}
		switch {
		case found && atEnd >= 0:
			t.Log.WithFields(fields(next)).Info(string(next.Result) + " " + next.subject())
		case found:
			t.leaveOut(next)
		}
		for namespace, n := range leftOut {
			t.Log.WithFields(logrus.Fields{"audit": "lost", "namespace": namespace, "lines": n}).Warn("left out audit lines")
		}
		if found {
			continue
		}
		if ctx.Err() != nil {
			return
		}
		select {
		case <-ctx.Done():
		case <-t.wake:
		}
	}
}

func (l line) subject() string {
	if l.Egress {
		return "egress"
	}
	return "frontend"
}

// fields returns the fields of a line. The logger quotes texts that hold more than letters, digits and a few signs.
func fields(l line) logrus.Fields {
	f := logrus.Fields{
		"audit": string(l.Result), "reason": l.Reason, "mapping": l.Mapping, "at": l.at.UTC().Format(time.RFC3339),
		"manager": l.Writer.Manager, "operation": l.Writer.Operation,
	}
	if !l.Writer.Time.IsZero() {
		f["written"] = l.Writer.Time.UTC().Format(time.RFC3339)
	}
	if l.Address.IsValid() {
		f["address"] = l.Address.String()
	}
	if l.Egress {
		f["egress"] = true
		return f
	}
	if l.Address.IsValid() {
		f["port"], f["protocol"] = l.Ports.String(), string(l.Protocol)
	}
	if l.Result != audit.Refused {
		f["grant"] = l.AllowedBy.Grant
		if l.AllowedBy.Pin != "" {
			f["pin"] = l.AllowedBy.Pin
		}
	}
	if l.Result == audit.Opened || l.Result == audit.Changed {
		f["sources"] = sources(l.Record)
	}
	return f
}

// sources returns the allowed clients of a Record in a text of bounded length.
func sources(r audit.Record) string {
	switch {
	case r.SourcesDeny:
		return "none"
	case len(r.Sources) == 0:
		return "all"
	}
	var words []string
	for _, s := range r.Sources[:min(len(r.Sources), maxSources)] {
		words = append(words, s.String())
	}
	if more := len(r.Sources) - maxSources; more > 0 {
		words = append(words, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(words, ",")
}
