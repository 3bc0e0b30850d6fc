// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package snapshotfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// maxSize is far more than any gateway can know; a larger file cannot be ours.
const maxSize = 512 << 20

// ErrOutdated is the error of Load if the kernel has had newer state than the saved one.
var ErrOutdated = errors.New("is older than what was in effect last")

// File is the place of a saved Snapshot. Only one process may use it at a time.
type File struct{ path, outdated string }

// NewFile returns the File at path. outdated is a marker that exists while the saved state is outdated. It belongs in a folder
// that a reboot clears, because a reboot also clears the newer state. NewFile does not touch the disk.
func NewFile(path, outdated string) File { return File{path, outdated} }

// String returns the path.
func (f File) String() string { return f.path }

// Save replaces the content of the file. If it fails, the old file stays unchanged.
func (f File) Save(s Saved) error {
	if err := f.save(s); err != nil {
		return fmt.Errorf("saving the objects in %s: %w", f.path, err)
	}
	return nil
}

func (f File) save(s Saved) (err error) {
	folder := filepath.Dir(f.path)
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return err
	}
	next := f.path + ".new"
	file, err := os.OpenFile(next, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, ignoreMissing(os.Remove(next)))
		}
	}()
	if err := errors.Join(encode(file, s), file.Sync(), file.Close()); err != nil {
		return err
	}
	if err := os.Rename(next, f.path); err != nil {
		return err
	}
	return syncFolder(folder)
}

// syncFolder makes a rename durable.
func syncFolder(path string) error {
	folder, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}

// SetOutdated records whether newer state than the saved one is in effect, or is about to be.
func (f File) SetOutdated(outdated bool) (err error) {
	if !outdated {
		err = ignoreMissing(os.Remove(f.outdated))
	} else if err = os.MkdirAll(filepath.Dir(f.outdated), 0o700); err == nil {
		err = os.WriteFile(f.outdated, nil, 0o600)
	}
	if err != nil {
		return fmt.Errorf("recording whether %s is outdated: %w", f.path, err)
	}
	return nil
}

// Load returns the saved state. The error is fs.ErrNotExist if there is none, and ErrOutdated if newer state has been in
// effect. An unusable file is moved aside for inspection, so that it fails only once.
func (f File) Load() (Saved, error) {
	if _, err := os.Stat(f.outdated); err == nil {
		return Saved{}, fmt.Errorf("%s %w", f.path, ErrOutdated)
	}
	info, err := os.Stat(f.path)
	if err != nil {
		return Saved{}, fmt.Errorf("reading the saved objects: %w", err)
	}
	if !info.Mode().IsRegular() || info.Size() > maxSize {
		return Saved{}, f.setAside(fmt.Errorf("is not a regular file of at most %d bytes", maxSize))
	}
	text, err := os.ReadFile(f.path)
	if err != nil {
		return Saved{}, fmt.Errorf("reading the saved objects: %w", err)
	}
	saved, err := decode(text)
	if err != nil {
		return Saved{}, f.setAside(err)
	}
	return saved, nil
}

// setAside moves the file away and reports the new name and the reason.
func (f File) setAside(why error) error {
	aside := f.path + ".bad"
	if err := os.Rename(f.path, aside); err != nil {
		return errors.Join(fmt.Errorf("%s cannot be used: it %w", f.path, why), err)
	}
	return fmt.Errorf("%s cannot be used and is now %s: it %w", f.path, aside, why)
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
