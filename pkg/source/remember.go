// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package source

import (
	"context"
	"errors"
	"io/fs"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/smartnat/smartnat/pkg/budget"
	"github.com/smartnat/smartnat/pkg/objects"
	"github.com/smartnat/smartnat/pkg/snapshotfile"
)

const (
	// patience is the time that the cluster may take to respond before the saved snapshot replaces it.
	patience = 5 * time.Second
	// saveAfter is the time in which changes are collected before a save, saveEvery the minimum time between saves. They take at
	// most one in saveShare of the time: a large Snapshot would compete with the changes themselves.
	saveAfter, saveEvery, saveShare = time.Second, 10 * time.Second, 100
	// retrySave is the pause after a failed save.
	retrySave = time.Minute
)

// Memory stores a Snapshot on disk. Until a reboot, it also remembers whether the stored Snapshot is outdated, and then
// does not load it: the kernel's rules are newer and stay until the cluster can be read.
type Memory interface {
	Load() (snapshotfile.Saved, error)
	Save(snapshotfile.Saved) error
	SetOutdated(outdated bool) error
}

// Remembering is a Source that saves the objects of another one. If that source cannot be read after a start, Remembering
// serves the saved Snapshot until it can.
type Remembering struct {
	Source
	memory   Memory
	origin   []string
	restores bool
	changed  func()
	log      logrus.FieldLogger
	// unsaved holds an element if the Snapshot has unsaved changes.
	unsaved chan struct{}

	// failing is used by keep only.
	failing bool

	mu       sync.Mutex
	restored *snapshotfile.Saved
	// rejected is the number of saved objects that no API server would have stored.
	rejected int64
	// outdated is set while the source is newer than the saved Snapshot.
	outdated bool
}

// Remember returns a Source that remembers the one that start returns. origin names its servers. If restores is false, the
// saved Snapshot is never used; set it only if nothing newer is known.
func Remember(start func(changed func()) (Source, error), memory Memory, origin []string, restores bool, changed func(), log logrus.FieldLogger) (*Remembering, error) {
	r := &Remembering{memory: memory, origin: origin, restores: restores, changed: changed, log: log, unsaved: make(chan struct{}, 1)}
	of, err := start(r.onChange)
	if err != nil {
		return nil, err
	}
	r.Source = of
	return r, nil
}

func (r *Remembering) onChange() {
	if r.Source.HasSynced() {
		r.supersede()
	}
	select {
	case r.unsaved <- struct{}{}:
	default:
	}
	r.changed()
}

// supersede records, before the change takes effect, that the source is newer than the saved Snapshot.
func (r *Remembering) supersede() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.restored = nil
	if r.outdated {
		return
	}
	r.outdated = true
	if err := r.memory.SetOutdated(true); err != nil {
		r.log.WithError(err).Warn("failed to mark saved snapshot as outdated")
	}
}

// Run implements Source.
func (r *Remembering) Run(ctx context.Context) error {
	var keeping sync.WaitGroup
	keeping.Go(func() { r.keep(ctx) })
	defer keeping.Wait()
	return r.Source.Run(ctx)
}

// HasSynced implements Source. A saved Snapshot is complete.
func (r *Remembering) HasSynced() bool {
	_, restored := r.Restored()
	return restored || r.Source.HasSynced()
}

// Snapshot implements Source.
func (r *Remembering) Snapshot() objects.Snapshot {
	r.mu.Lock()
	restored := r.restored
	r.mu.Unlock()
	if restored != nil {
		return restored.Snapshot
	}
	return r.Source.Snapshot()
}

// Restored returns the time of the saved Snapshot if it is in use because the cluster has not been read since the start.
func (r *Remembering) Restored() (at time.Time, restored bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.restored == nil {
		return time.Time{}, false
	}
	return r.restored.At, true
}

// Contact implements Source.
func (r *Remembering) Contact() Contact {
	contact := r.Source.Contact()
	r.mu.Lock()
	defer r.mu.Unlock()
	contact.Rejected += r.rejected
	return contact
}

// keep saves changes, and restores the saved Snapshot after patience.
func (r *Remembering) keep(ctx context.Context) {
	var waiting <-chan time.Time
	if r.restores {
		waiting = time.After(patience)
	}
	var due <-chan time.Time
	saves := budget.New(saveShare, 0)
	for {
		select {
		case <-waiting:
			r.restore()
		case <-r.unsaved:
			if due == nil {
				due = time.After(max(saveAfter, time.Until(saves.Next())))
			}
		case <-due:
			due = nil
			began := time.Now()
			if !r.save() {
				due = time.After(retrySave)
			}
			saves.Spend(began, max(time.Since(began), saveEvery/saveShare))
		case <-ctx.Done():
			if due != nil || len(r.unsaved) > 0 {
				r.save()
			}
			return
		}
	}
}

// save saves the Snapshot and reports whether it succeeded or had nothing to do.
func (r *Remembering) save() bool {
	if !r.Source.HasSynced() {
		return true
	}
	err := r.saveNow()
	switch {
	case err != nil && !r.failing:
		r.log.WithError(err).Warn("failed to save snapshot, will retry")
	case err == nil && r.failing:
		r.log.Info("saved snapshot after earlier failure")
	}
	r.failing = err != nil
	return err == nil
}

func (r *Remembering) saveNow() error {
	r.mu.Lock()
	r.outdated = false // a change during the save sets it again
	r.mu.Unlock()
	err := r.memory.Save(snapshotfile.Saved{Snapshot: r.Source.Snapshot(), Origin: r.origin, At: time.Now()})
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil && !r.outdated {
		err = r.memory.SetOutdated(false)
	}
	r.outdated = r.outdated || err != nil
	return err
}

// restore uses the saved Snapshot, unless the source has synced meanwhile.
func (r *Remembering) restore() {
	if r.Source.HasSynced() {
		return
	}
	log := r.log.WithField("waited", patience.String())
	saved, err := r.memory.Load()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		log.Warn("no response and no saved snapshot, waiting for server")
		return
	case err != nil:
		log.WithError(err).Error("cannot use saved snapshot, waiting for server")
		return
	case !saved.From(r.origin):
		log.WithField("origin", saved.Origin).Warn("saved snapshot has another origin, waiting for server")
		return
	}
	for _, rejected := range saved.Rejected[:min(len(saved.Rejected), maxNamed)] {
		log.WithField("object", rejected).Warn("rejected invalid object in saved snapshot")
	}
	r.mu.Lock()
	r.rejected = int64(len(saved.Rejected))
	if !r.Source.HasSynced() {
		r.restored = &saved
	}
	r.mu.Unlock()
	log.WithFields(logrus.Fields{"saved": saved.At.UTC().Format(time.RFC3339), "mappings": len(saved.Mappings)}).
		Warn("no response from server, using saved snapshot")
	r.changed()
}
