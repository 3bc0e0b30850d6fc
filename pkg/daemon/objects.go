// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/objects"
	"github.com/smartnat/smartnat/pkg/source"
)

// objectSource is a Source that outlives Runners: it is started once and enqueues the running one.
type objectSource struct {
	source.Source
	enqueue atomic.Pointer[func()]
	// before is the last snapshot of the Source that this one replaced. It is used until this one has synced.
	before atomic.Pointer[objects.Snapshot]
	cancel context.CancelFunc
	ended  chan struct{}
	err    error
}

// newObjects returns the objects of the config, which serve those of the running generation until they have synced.
func (d *Daemon) newObjects(cfg config.Config, running *generation) (*objectSource, error) {
	o := &objectSource{ended: make(chan struct{})}
	if running != nil && running.objects.HasSynced() {
		snapshot := running.objects.Snapshot()
		o.before.Store(&snapshot)
	}
	var err error
	o.Source, err = d.NewSource(cfg, o.before.Load() == nil, o.changed)
	return o, err
}

func (o *objectSource) changed() {
	if o.Source.HasSynced() {
		o.before.Store(nil)
	}
	if enqueue := o.enqueue.Load(); enqueue != nil {
		(*enqueue)()
	}
}

// start makes the Source read until stop.
func (o *objectSource) start(ctx context.Context) {
	ctx, o.cancel = context.WithCancel(ctx)
	go func() {
		defer close(o.ended)
		o.err = o.Source.Run(ctx)
	}()
}

// stop returns once the Source has ended and saved its objects.
func (o *objectSource) stop() {
	o.cancel()
	<-o.ended
}

// Run implements controller.Source. It waits until the Source ends, and returns its error.
func (o *objectSource) Run(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-o.ended:
		return o.err
	}
}

// HasSynced implements controller.Source.
func (o *objectSource) HasSynced() bool { return o.before.Load() != nil || o.Source.HasSynced() }

// Snapshot implements controller.Source.
func (o *objectSource) Snapshot() objects.Snapshot {
	if before := o.before.Load(); before != nil && !o.Source.HasSynced() {
		return *before
	}
	return o.Source.Snapshot()
}

// restored returns when the objects in effect were saved, or zero if they did not come from disk.
func (o *objectSource) restored() time.Time {
	if r, ok := o.Source.(interface{ Restored() (time.Time, bool) }); ok {
		if at, restored := r.Restored(); restored {
			return at
		}
	}
	return time.Time{}
}
