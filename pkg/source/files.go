// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package source

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/sirupsen/logrus"

	"github.com/smartnat/smartnat/pkg/objects"
)

// settle is the time that files must be unchanged before they are read: editors and package managers write in several
// steps.
const settle = 100 * time.Millisecond

// files is a Source that reads files and reloads them when they change.
type files struct {
	paths   []string
	changed func()
	log     logrus.FieldLogger

	mu      sync.Mutex
	synced  bool
	contact Contact
	objects objects.Store
}

func newFiles(paths []string, changed func(), log logrus.FieldLogger) *files {
	return &files{paths: paths, changed: changed, log: log}
}

// Run implements Source.
func (f *files) Run(ctx context.Context) error {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watching files: %w", err)
	}
	defer watcher.Close()
	for _, folder := range f.folders() {
		if err := watcher.Add(folder); err != nil {
			return fmt.Errorf("watching %s: %w", folder, err)
		}
	}
	// Watch before reading, so that no change is missed in between.
	f.read()
	quiet := time.NewTimer(settle)
	quiet.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-watcher.Events:
			quiet.Reset(settle)
		case err := <-watcher.Errors:
			// Usually an overflow of the event queue. Reading again finds all changes.
			f.log.WithError(err).Debug("failed to watch files, reading again")
			quiet.Reset(settle)
		case <-quiet.C:
			f.read()
		}
	}
}

// folders returns the directories to watch. Watching a file would miss its replacement by rename.
func (f *files) folders() []string {
	var folders []string
	for _, path := range f.paths {
		if info, err := os.Stat(path); err != nil || !info.IsDir() {
			path = filepath.Dir(path)
		}
		folders = append(folders, path)
	}
	return folders
}

// read stores the content of the files if all of them are valid.
func (f *files) read() {
	snapshot, err := ReadFiles(f.paths, strings.NewReader(""))
	f.mu.Lock()
	differs := false
	switch {
	case err != nil:
		f.contact.Failures++
		if why := strings.ReplaceAll(err.Error(), "\n", "; "); why != f.contact.Why {
			f.log.WithField("error", why).Error("failed to read files, keeping last valid version")
			f.contact.Why = why
		}
		if !f.contact.Lost {
			f.contact.Lost, f.contact.Since = true, time.Now()
		}
	default:
		if f.contact.Lost {
			f.log.Info("files are valid again")
		}
		f.contact = Contact{Last: time.Now(), Failures: f.contact.Failures}
		differs = f.objects.Replace(snapshot) || !f.synced
		f.synced = true
	}
	f.mu.Unlock()
	if differs {
		f.changed()
	}
}

// HasSynced implements Source.
func (f *files) HasSynced() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.synced
}

// Snapshot implements Source.
func (f *files) Snapshot() objects.Snapshot { return f.objects.Snapshot() }

// Contact implements Source.
func (f *files) Contact() Contact {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.contact
}
