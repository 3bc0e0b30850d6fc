// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"fmt"
	"maps"
	"strings"
	"sync"
	"time"

	"github.com/smartnat/smartnat/pkg/controller"
	"github.com/smartnat/smartnat/pkg/finding"
	"github.com/smartnat/smartnat/pkg/gateway"
)

const waiting = "waiting for the first complete list of objects"

// statusTracker collects the results since the start for the status line, the probes and the metrics.
type statusTracker struct {
	mu sync.Mutex
	// everReady is set once every rule has been in effect; processedAt is when the worker last finished an item.
	everReady   bool
	processedAt time.Time
	// programmed holds the Mappings with at least one Forward in forwards. forwarded counts those that are forwarded in full.
	programmed map[string]struct{}
	forwarded  int
	forwards   []*gateway.Forward
	// inPlace are the Forwards that the kernel held last, and changed is when those of a Mapping changed.
	inPlace []*gateway.Forward
	changed map[string]time.Time
	// failing is the error of the last apply and since is when the failures began; failing is nil after a success.
	failing error
	since   time.Time
	// repaired is what the last repair put back.
	repaired   string
	repairedAt time.Time
}

// status returns the part of the Status that spans generations.
func (t *statusTracker) status() Status {
	t.mu.Lock()
	defer t.mu.Unlock()
	return Status{Ready: t.everReady, ItemProcessed: t.processedAt}
}

func (t *statusTracker) ready() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.everReady = true
}

func (t *statusTracker) itemProcessed(now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.processedAt = now
}

func (t *statusTracker) applied(o controller.Outcome, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n := len(o.Result.Repaired); n > 0 {
		t.repaired, t.repairedAt = o.Result.Repaired[n-1].Missing, now
	}
	if o.Report != nil {
		forwards := o.Report.State.Forwards
		if ownersDiffer(t.forwards, forwards) {
			t.programmed = finding.Programmed(o.Report.State)
		}
		t.forwarded = finding.CountReady(t.programmed, o.Report.Findings)
		t.forwards = forwards
		if o.Err == nil || o.Result.InPlace {
			t.change(forwards, len(o.Report.Snapshot.Mappings), now)
		}
	}
	if o.Err != nil && t.failing == nil {
		t.since = now
	}
	t.failing = o.Err
}

// change notes the Mappings whose Forwards in the kernel changed. Before the first call, nothing is known.
func (t *statusTracker) change(forwards []*gateway.Forward, mappings int, now time.Time) {
	if t.changed == nil {
		t.changed, t.inPlace = map[string]time.Time{}, forwards
		return
	}
	for was, is := range gateway.DifferingForwards(t.inPlace, forwards) {
		if was != nil && is != nil && gateway.EqualForwards(was, is) {
			continue
		}
		for _, f := range []*gateway.Forward{was, is} {
			if f != nil {
				t.changed[f.Owner] = now
			}
		}
	}
	t.inPlace = forwards
	if len(t.changed) > 2*mappings+maxGone {
		maps.DeleteFunc(t.changed, func(owner string, _ time.Time) bool { _, found := t.programmed[owner]; return !found })
	}
}

// maxGone bounds the Mappings that are remembered although they are gone.
const maxGone = 1000

func (t *statusTracker) lastChanges() map[string]time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	return maps.Clone(t.changed)
}

// ownersDiffer reports whether other owners may have a Forward now. Collecting them again costs a hundred times as much.
func ownersDiffer(before, now []*gateway.Forward) bool {
	for was, is := range gateway.DifferingForwards(before, now) {
		if was == nil || is == nil || was.Owner != is.Owner {
			return true
		}
	}
	return false
}

// missing returns what this gateway lacks, each part with its cause; nothing if it is complete. inEffect means that every rule
// of the generation is in the kernel.
func (t *statusTracker) missing(o *objectSource, inEffect bool) []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.missingLocked(o, inEffect)
}

func (t *statusTracker) missingLocked(o *objectSource, inEffect bool) []string {
	var parts []string
	synced := o.HasSynced()
	switch {
	case !synced:
		parts = append(parts, waiting)
	case !o.restored().IsZero():
		parts = append(parts, "the source has not been read since the start")
	}
	if c := o.Contact(); c.Lost {
		parts = append(parts, "source lost since "+stamp(c.Since)+": "+c.Why)
	}
	switch {
	case t.failing != nil:
		parts = append(parts, "apply failing since "+stamp(t.since)+": "+t.failing.Error())
	case synced && !inEffect:
		parts = append(parts, "the rules are not verified yet")
	}
	return parts
}

// line returns the status line: what is in effect, how old it may be, and what is missing.
func (t *statusTracker) line(o *objectSource, inEffect, announced bool) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	missing := t.missingLocked(o, inEffect)
	var parts []string
	if o.HasSynced() {
		parts = append(parts, t.inEffect(o))
	}
	if o.Source.HasSynced() && o.restored().IsZero() && !o.Contact().Lost {
		parts = append(parts, "source connected")
	}
	parts = append(parts, missing...)
	if t.repaired != "" {
		parts = append(parts, "last repair at "+stamp(t.repairedAt)+": "+t.repaired)
	}
	line := strings.Join(parts, "; ")
	switch {
	case len(missing) == 0:
		return line
	case announced:
		return "degraded: " + line
	}
	return "starting: " + line
}

func (t *statusTracker) inEffect(o *objectSource) string {
	line := fmt.Sprintf("%d Mappings programmed", len(t.programmed))
	if len(t.programmed) == 1 {
		line = "1 Mapping programmed"
	}
	if n := len(t.programmed) - t.forwarded; n > 0 {
		line += fmt.Sprintf(", %d of them not ready", n)
	}
	if at := o.restored(); !at.IsZero() {
		line += " from objects saved at " + stamp(at)
	}
	return line
}

func stamp(at time.Time) string { return at.UTC().Format(time.RFC3339) }
