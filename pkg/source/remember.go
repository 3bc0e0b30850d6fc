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

	"github.com/smartnat/smartnat/pkg/calc"
	"github.com/smartnat/smartnat/pkg/snapshot"
)

const (
	// patience is how long the cluster may take to answer before what was saved is used in its place.
	patience = 5 * time.Second
	// saveAfter is how long a change waits for others before it is saved, saveEvery the least time between two saves.
	saveAfter, saveEvery = time.Second, 10 * time.Second
	// retrySave is how long a disk that could not be written is left alone.
	retrySave = time.Minute
)

// Memory keeps a Snapshot where it outlives the machine's power. It remembers until a reboot whether what it keeps is outdated,
// and then does not load it: what the kernel holds is newer, and stays as it is until the cluster can be read.
type Memory interface {
	Load() (snapshot.Saved, error)
	Save(snapshot.Saved) error
	SetOutdated(outdated bool) error
}

// Remembering is a Source that saves what another one knows, and goes on from that where the other one cannot be read after a
// start: from then on until it can.
type Remembering struct {
	Source
	memory   Memory
	origin   []string
	restores bool
	changed  func()
	log      logrus.FieldLogger
	// unsaved has something in it when the Snapshot is not saved yet.
	unsaved chan struct{}

	// failing is keep's own.
	failing bool

	mu       sync.Mutex
	restored *snapshot.Saved
	// rejected is how many objects that were saved no API server would have stored.
	rejected int64
	// outdated is set while what the source knows is newer than what is saved.
	outdated bool
}

// Remember returns a Source which remembers what the one that start returns knows. The origin names the servers that it asks.
// What was saved is restored only where that is asked for: where nothing newer is known.
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

// supersede notes, before anybody can act on it, that the source knows something newer than what is saved.
func (r *Remembering) supersede() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.restored = nil
	if r.outdated {
		return
	}
	r.outdated = true
	if err := r.memory.SetOutdated(true); err != nil {
		r.log.WithError(err).Warn("a start within seconds that finds no cluster to read would go back to what was saved before")
	}
}

// Run implements Source.
func (r *Remembering) Run(ctx context.Context) error {
	var keeping sync.WaitGroup
	keeping.Go(func() { r.keep(ctx) })
	defer keeping.Wait()
	return r.Source.Run(ctx)
}

// HasSynced implements Source. What was saved was whole.
func (r *Remembering) HasSynced() bool {
	_, restored := r.Restored()
	return restored || r.Source.HasSynced()
}

// Snapshot implements Source.
func (r *Remembering) Snapshot() calc.Snapshot {
	r.mu.Lock()
	restored := r.restored
	r.mu.Unlock()
	if restored != nil {
		return restored.Snapshot
	}
	return r.Source.Snapshot()
}

// Restored is when what the Snapshot holds was saved, while the cluster has not been read since the start.
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

// keep saves what changes, and restores it where it has to.
func (r *Remembering) keep(ctx context.Context) {
	var waiting <-chan time.Time
	if r.restores {
		waiting = time.After(patience)
	}
	var due <-chan time.Time
	var last time.Time
	for {
		select {
		case <-waiting:
			r.restore()
		case <-r.unsaved:
			if due == nil {
				due = time.After(max(saveAfter, time.Until(last.Add(saveEvery))))
			}
		case <-due:
			due, last = nil, time.Now()
			if !r.save() {
				due = time.After(retrySave)
			}
		case <-ctx.Done():
			if due != nil || len(r.unsaved) > 0 {
				r.save()
			}
			return
		}
	}
}

// save reports whether nothing is left to be saved.
func (r *Remembering) save() bool {
	if !r.Source.HasSynced() {
		return true
	}
	err := r.saveNow()
	switch {
	case err != nil && !r.failing:
		r.log.WithError(err).Warn("what is known could not be saved for the next boot; going on, and trying again")
	case err == nil && r.failing:
		r.log.Info("what is known is saved again")
	}
	r.failing = err != nil
	return err == nil
}

func (r *Remembering) saveNow() error {
	r.mu.Lock()
	r.outdated = false // but for what changes while it is being saved
	r.mu.Unlock()
	err := r.memory.Save(snapshot.Saved{Snapshot: r.Source.Snapshot(), Origin: r.origin, At: time.Now()})
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil && !r.outdated {
		err = r.memory.SetOutdated(false)
	}
	r.outdated = r.outdated || err != nil
	return err
}

// restore takes over what was saved, unless the cluster has been read meanwhile.
func (r *Remembering) restore() {
	if r.Source.HasSynced() {
		return
	}
	log := r.log.WithField("waited", patience.String())
	saved, err := r.memory.Load()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		log.Warn("the cluster has not been read yet, and nothing is saved from earlier: waiting for it")
		return
	case err != nil:
		log.WithError(err).Error("the cluster has not been read yet, and what is saved from earlier cannot be used: waiting for it")
		return
	case !saved.From(r.origin):
		log.WithField("origin", saved.Origin).Warn("the cluster has not been read yet, and what is saved came from elsewhere: waiting for it")
		return
	}
	for _, rejected := range saved.Rejected[:min(len(saved.Rejected), maxNamed)] {
		log.WithField("object", rejected).Warn("rejected a saved object that no API server would have stored")
	}
	r.mu.Lock()
	r.rejected = int64(len(saved.Rejected))
	if !r.Source.HasSynced() {
		r.restored = &saved
	}
	r.mu.Unlock()
	log.WithFields(logrus.Fields{"saved": saved.At.UTC().Format(time.RFC3339), "mappings": len(saved.Mappings)}).
		Warn("the cluster has not been read yet: going on from what was saved")
	r.changed()
}
