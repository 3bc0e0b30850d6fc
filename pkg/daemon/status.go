// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/dataplane"
	"github.com/smartnat/smartnat/pkg/finding"
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/packet"
	"github.com/smartnat/smartnat/pkg/source"
)

// maxItemDuration is the longest time for an item of the worker: longer than the timeouts of all programs of an apply together.
// WatchdogSec in the unit is the same.
const maxItemDuration = 10 * time.Minute

// Status is the condition of the daemon at one time. Unknown times are zero.
type Status struct {
	// Ready is set once everything has been in effect.
	Ready bool
	// Missing says what keeps the gateway from being complete, each part with its cause: the source, or a part of the desired state.
	Missing []string
	// ItemProcessed is when the worker last finished an item, including a mere check of the kernel.
	ItemProcessed time.Time
	// Queued is the length of the worker's queue: 0 or 1, because events are coalesced.
	Queued int
	// Synced is set once the objects have been read. Contact describes the connection to their source.
	Synced  bool
	Contact source.Contact
	// Restored is when the objects in effect were saved, if they come from the snapshot on disk.
	Restored time.Time
	// CredentialEnds is when the client certificate or token for the source expires, if it does.
	CredentialEnds time.Time
}

// Degraded reports whether the gateway is not complete.
func (s Status) Degraded() bool { return len(s.Missing) > 0 }

// Status returns the status of the running generation.
func (d *Daemon) Status() Status {
	s := d.tracker.status()
	g := d.current.Load()
	if g == nil {
		return s
	}
	restored := g.objects.restored()
	s.Queued = g.runner.Queued()
	s.Missing = d.tracker.missing(g.objects, g.ready.Load())
	s.Synced, s.Contact, s.Restored = g.objects.Source.HasSynced() && restored.IsZero(), g.objects.Contact(), restored
	s.CredentialEnds = d.CredentialEnds(g.cfg.Source)
	return s
}

// Report returns what the running generation last reported, or nil if it has not reported yet. It is shared and must not be
// changed.
func (d *Daemon) Report() *finding.Report {
	if g := d.current.Load(); g != nil {
		return g.report.Load()
	}
	return nil
}

// LastChanges returns when what is in effect for a Mapping last changed, by namespace/name. It has no Mapping that is as it was when
// the daemon started.
func (d *Daemon) LastChanges() map[string]time.Time { return d.tracker.lastChanges() }

// Tracer returns a model of what the rules that are now in the kernel do to packets of a family.
func (d *Daemon) Tracer(ctx context.Context, family gateway.Family) (packet.Tracer, error) {
	if g := d.current.Load(); g != nil {
		return g.runner.Tracer(ctx, family)
	}
	return nil, errors.New("no config is in effect yet")
}

// Plan compares the kernel with a State and writes nothing.
func (d *Daemon) Plan(ctx context.Context, state gateway.State) (dataplane.Plan, error) {
	if g := d.current.Load(); g != nil {
		return g.runner.Plan(ctx, state)
	}
	return dataplane.Plan{}, errors.New("no config is in effect yet")
}

// Config returns the config of the running generation, or the zero Config before the first.
func (d *Daemon) Config() config.Config {
	if g := d.current.Load(); g != nil {
		return g.cfg
	}
	return config.Config{}
}

// Alive is the liveness probe. It fails if the worker hangs, so that a restart would help.
func (d *Daemon) Alive() error {
	if at := d.tracker.status().ItemProcessed; !at.IsZero() && time.Since(at) > maxItemDuration {
		return fmt.Errorf("the worker hangs since %s", stamp(at))
	}
	return nil
}

// Ready is the readiness probe. It fails until every rule has been in effect once, and returns what is missing. A degraded start
// ends the start for systemd, but clients cannot rely on this gateway yet.
func (d *Daemon) Ready() error {
	if d.tracker.status().Ready {
		return nil
	}
	text := "not everything has been in effect yet"
	if g := d.current.Load(); g != nil {
		text += ": " + strings.Join(d.tracker.missing(g.objects, false), "; ")
	}
	return errors.New(text)
}

func (d *Daemon) statusLine(g *generation) string {
	return d.tracker.line(g.objects, g.ready.Load(), g.announced.Load())
}
