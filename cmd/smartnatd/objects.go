// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/smartnat/smartnat/pkg/calc"
	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/snapshot"
	"github.com/smartnat/smartnat/pkg/source"
)

// objects is a Source that outlives the controllers that read it: it is started once, and tells the one that runs.
type objects struct {
	source.Source
	enqueue atomic.Pointer[func()]
	// before is what the Source in whose place this one came knew last. It stands until this one has synced.
	before atomic.Pointer[calc.Snapshot]
	cancel context.CancelFunc
	ended  chan struct{}
	err    error
}

// savedObjects is where the objects of a cluster are saved.
func savedObjects(cfg config.Config) snapshot.File {
	return snapshot.NewFile(filepath.Join(cfg.StateDir, "objects.jsonl"), filepath.Join(cfg.RuntimeDir, "objects.outdated"))
}

// newObjects returns the Source that the config names; it remembers what comes from a cluster, by way of counted. What is
// known already stands until that Source has synced, in place of what was saved once.
func newObjects(cfg config.Config, known *calc.Snapshot, counted func(source.Memory) source.Memory, log logrus.FieldLogger) (*objects, error) {
	o := &objects{ended: make(chan struct{})}
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

func (o *objects) changed() {
	if o.Source.HasSynced() {
		o.before.Store(nil)
	}
	if enqueue := o.enqueue.Load(); enqueue != nil {
		(*enqueue)()
	}
}

// start has the Source read until stop.
func (o *objects) start(ctx context.Context) {
	ctx, o.cancel = context.WithCancel(ctx)
	go func() {
		defer close(o.ended)
		o.err = o.Source.Run(ctx)
	}()
}

// stop returns when the Source has ended, with all that it knew saved.
func (o *objects) stop() {
	o.cancel()
	<-o.ended
}

// Run implements controller.Source: it waits, and tells how the Source ended if it did.
func (o *objects) Run(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-o.ended:
		return o.err
	}
}

// HasSynced implements controller.Source.
func (o *objects) HasSynced() bool { return o.before.Load() != nil || o.Source.HasSynced() }

// Snapshot implements controller.Source.
func (o *objects) Snapshot() calc.Snapshot {
	if before := o.before.Load(); before != nil && !o.Source.HasSynced() {
		return *before
	}
	return o.Source.Snapshot()
}

// restored is when the objects were saved that are in effect, while they come from the disk.
func (o *objects) restored() time.Time {
	if r, ok := o.Source.(interface{ Restored() (time.Time, bool) }); ok {
		if at, restored := r.Restored(); restored {
			return at
		}
	}
	return time.Time{}
}
