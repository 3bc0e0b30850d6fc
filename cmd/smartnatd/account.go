// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/smartnat/smartnat/pkg/controller"
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/metrics"
)

const (
	waiting = "waiting for the first complete list of objects"
	// hung is the longest turn of the worker: longer than the timeouts of all programs of an apply together. WatchdogSec in the
	// unit is the same.
	hung = 10 * time.Minute
)

// account collects the results since the start for the status line, the probes and the metrics.
type account struct {
	mu sync.Mutex
	// everReady is set once every rule has been in effect; turnedAt is the end of the worker's last turn.
	everReady bool
	turnedAt  time.Time
	// programmed holds the Mappings with at least one Forward in forwards. forwarded counts those that are forwarded in full.
	programmed map[string]struct{}
	forwarded  int
	forwards   []*gateway.Forward
	// failing is the error of the last apply and since is when the failures began; failing is nil after a success.
	failing error
	since   time.Time
	// repaired is what the last repair put back.
	repaired   string
	repairedAt time.Time
}

func (a *account) ready() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.everReady = true
}

func (a *account) turned(now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.turnedAt = now
}

func (a *account) applied(o controller.Outcome, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if n := len(o.Result.Repaired); n > 0 {
		a.repaired, a.repairedAt = o.Result.Repaired[n-1].Missing, now
	}
	if o.Facts != nil {
		forwards := o.Facts.State.Forwards
		if !slices.EqualFunc(forwards, a.forwards, sameOwner) {
			a.programmed = metrics.Owners(o.Facts.State)
		}
		a.forwarded = metrics.ReadyOf(a.programmed, o.Facts.Findings)
		a.forwards = forwards
	}
	if o.Err != nil && a.failing == nil {
		a.since = now
	}
	a.failing = o.Err
}

// sameOwner compares pointers first: it runs for each Forward after each change, and counting owners again costs a hundred
// times as much.
func sameOwner(x, y *gateway.Forward) bool { return x == y || x.Owner == y.Owner }

// missing returns what this gateway lacks, each part with its cause; nothing if it is complete. inEffect means that every rule
// of the generation is in the kernel.
func (a *account) missing(o *objectSource, inEffect bool) []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.missingLocked(o, inEffect)
}

func (a *account) missingLocked(o *objectSource, inEffect bool) []string {
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
	case a.failing != nil:
		parts = append(parts, "apply failing since "+stamp(a.since)+": "+a.failing.Error())
	case synced && !inEffect:
		parts = append(parts, "the rules are not verified yet")
	}
	return parts
}

// describe returns the status line: what is in effect, how old it may be, and what is missing.
func (a *account) describe(o *objectSource, inEffect, announced bool) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	missing := a.missingLocked(o, inEffect)
	var parts []string
	if o.HasSynced() {
		parts = append(parts, a.inEffect(o))
	}
	if o.Source.HasSynced() && o.restored().IsZero() && !o.Contact().Lost {
		parts = append(parts, "source connected")
	}
	parts = append(parts, missing...)
	if a.repaired != "" {
		parts = append(parts, "last repair at "+stamp(a.repairedAt)+": "+a.repaired)
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

func (a *account) inEffect(o *objectSource) string {
	line := fmt.Sprintf("%d Mappings programmed", len(a.programmed))
	if len(a.programmed) == 1 {
		line = "1 Mapping programmed"
	}
	if n := len(a.programmed) - a.forwarded; n > 0 {
		line += fmt.Sprintf(", %d of them not ready", n)
	}
	if at := o.restored(); !at.IsZero() {
		line += " from objects saved at " + stamp(at)
	}
	return line
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func (d *daemon) describe(g *generation) string {
	return d.account.describe(g.objects, g.ready.Load(), g.announced.Load())
}

// alive implements metrics.Probes.
func (d *daemon) alive() error {
	d.account.mu.Lock()
	defer d.account.mu.Unlock()
	if at := d.account.turnedAt; !at.IsZero() && time.Since(at) > hung {
		return fmt.Errorf("the worker hangs since %s", stamp(at))
	}
	return nil
}

// ready implements metrics.Probes. It fails until every rule has been in effect once, and returns what is missing. A degraded
// start ends the start for systemd, but clients cannot rely on this gateway yet.
func (d *daemon) ready() error {
	d.account.mu.Lock()
	defer d.account.mu.Unlock()
	if d.account.everReady {
		return nil
	}
	text := "not everything has been in effect yet"
	if g := d.current.Load(); g != nil {
		text += ": " + strings.Join(d.account.missingLocked(g.objects, false), "; ")
	}
	return errors.New(text)
}

// Standing implements metrics.Gateway.
func (d *daemon) Standing() metrics.Standing {
	d.account.mu.Lock()
	s := metrics.Standing{Ready: d.account.everReady, Turned: d.account.turnedAt}
	d.account.mu.Unlock()
	g := d.current.Load()
	if g == nil {
		return s
	}
	s.Queued = g.runner.Queued()
	s.Degraded = len(d.account.missing(g.objects, g.ready.Load())) > 0
	s.Synced, s.Contact, s.Restored = g.objects.Source.HasSynced() && g.objects.restored().IsZero(), g.objects.Contact(), g.objects.restored()
	s.CertificateEnds = certificateEnds(g.cfg.Source)
	return s
}
