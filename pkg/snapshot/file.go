// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// maxSize is far more than any gateway can know; what is larger is another file.
const maxSize = 512 << 20

// ErrOutdated is the error of Load while what is in effect is newer than what is saved.
var ErrOutdated = errors.New("is older than what was in effect last")

// File is where a Snapshot is kept. One process at a time may use it.
type File struct{ path, outdated string }

// NewFile names the file, and another one that is there while what is saved is outdated: in a folder that no reboot leaves
// as it is, for what is in effect is gone then. Nothing is touched yet.
func NewFile(path, outdated string) File { return File{path, outdated} }

// String is the path.
func (f File) String() string { return f.path }

// Save replaces what the file holds. Whatever fails, the old file stays as it was.
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

// syncFolder makes a rename last.
func syncFolder(path string) error {
	folder, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}

// SetOutdated notes whether something newer than what is saved is in effect, or is going to be.
func (f File) SetOutdated(outdated bool) (err error) {
	if !outdated {
		err = ignoreMissing(os.Remove(f.outdated))
	} else if err = os.MkdirAll(filepath.Dir(f.outdated), 0o700); err == nil {
		err = os.WriteFile(f.outdated, nil, 0o600)
	}
	if err != nil {
		return fmt.Errorf("noting whether %s is outdated: %w", f.path, err)
	}
	return nil
}

// Load returns what was saved last; an error that is fs.ErrNotExist when nothing was, and one that is ErrOutdated when it is
// no longer what is in effect. A file that cannot be used is set aside, for a person to look at, and so is never in the way again.
func (f File) Load() (Saved, error) {
	if _, err := os.Stat(f.outdated); err == nil {
		return Saved{}, fmt.Errorf("%s %w", f.path, ErrOutdated)
	}
	info, err := os.Stat(f.path)
	if err != nil {
		return Saved{}, fmt.Errorf("reading the saved objects: %w", err)
	}
	if !info.Mode().IsRegular() || info.Size() > maxSize {
		return Saved{}, f.setAside(fmt.Errorf("is no file of at most %d bytes", maxSize))
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

// setAside moves the file away and says where to and why.
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
