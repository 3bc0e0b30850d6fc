// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/objects"
	"github.com/smartnat/smartnat/pkg/snapshotfile"
	"github.com/smartnat/smartnat/pkg/source"
)

// objectSource is a Source that outlives controllers: it is started once and enqueues the running controller.
type objectSource struct {
	source.Source
	enqueue atomic.Pointer[func()]
	// before is the last snapshot of the Source that this one replaced. It is used until this one has synced.
	before atomic.Pointer[objects.Snapshot]
	cancel context.CancelFunc
	ended  chan struct{}
	err    error
}

// savedObjects returns the file for the objects of a cluster.
func savedObjects(cfg config.Config) snapshotfile.File {
	return snapshotfile.NewFile(filepath.Join(cfg.StateDir, "objects.jsonl"), filepath.Join(cfg.RuntimeDir, "objects.outdated"))
}

// newObjects returns the Source of the config. Objects of a cluster are saved through counted. If known is set, it is used
// instead of the saved objects until the Source has synced.
func newObjects(cfg config.Config, known *objects.Snapshot, counted func(source.Memory) source.Memory, log logrus.FieldLogger) (*objectSource, error) {
	o := &objectSource{ended: make(chan struct{})}
	o.before.Store(known)
	start := func(changed func()) (source.Source, error) { return source.New(cfg.Source, changed, log) }
	var err error
	if origin := source.Origin(cfg.Source); origin == nil {
		o.Source, err = start(o.changed)
	} else {
		o.Source, err = source.Remember(start, counted(savedObjects(cfg)), origin, known == nil, o.changed, log)
	}
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
