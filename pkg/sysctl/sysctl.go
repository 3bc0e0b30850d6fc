// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package sysctl reads and writes kernel parameters, and keeps a record of what they were before, so that they can be
// put back. It never knows which of them a gateway needs: that is pkg/dataplane.
package sysctl

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

const (
	root       = "/proc/sys"
	recordName = "sysctls.json"
)

// Sysctls are the kernel's parameters. It is safe for one user at a time.
type Sysctls struct {
	root, record string
}

// change is what became of a parameter.
type change struct {
	Was string `json:"was"`
	Set string `json:"set"`
}

// New returns the kernel's parameters. The record of what they were is kept in runtimeDir, which should not outlive a
// reboot, as they do not.
func New(runtimeDir string) *Sysctls {
	return &Sysctls{root: root, record: filepath.Join(runtimeDir, recordName)}
}

// Get returns a parameter by its path, "net/ipv4/ip_forward". Where there is none such, the error is fs.ErrNotExist.
func (s *Sysctls) Get(key string) (string, error) {
	path, err := s.path(key)
	if err != nil {
		return "", err
	}
	value, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("reading a kernel parameter: %w", err)
	}
	return strings.TrimSpace(string(value)), nil
}

// Before returns what a parameter was before Set, or what it is where Set did not change it or another program has since.
func (s *Sysctls) Before(key string) (string, error) {
	is, err := s.Get(key)
	if err != nil {
		return "", err
	}
	// A record that is damaged is left to those who write it, and are heard when they set it aside.
	record := map[string]change{}
	content, err := os.ReadFile(s.record)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return "", fmt.Errorf("reading the record of kernel parameters: %w", err)
	default:
		if err := json.Unmarshal(content, &record); err != nil {
			return "", fmt.Errorf("reading the record of kernel parameters: %w", err)
		}
	}
	if c, found := record[key]; found && c.Set == is {
		return c.Was, nil
	}
	return is, nil
}

// List returns the paths of the parameters that match a pattern as filepath.Match has it, sorted.
func (s *Sysctls) List(pattern string) ([]string, error) {
	path, err := s.path(pattern)
	if err != nil {
		return nil, err
	}
	found, err := filepath.Glob(path)
	if err != nil {
		return nil, fmt.Errorf("looking for kernel parameters like %s: %w", pattern, err)
	}
	keys := make([]string, 0, len(found))
	for _, f := range found {
		keys = append(keys, strings.TrimPrefix(f, s.root+"/"))
	}
	return keys, nil
}

// Set changes a parameter and records what it was. The parameter is set even when that cannot be recorded.
func (s *Sysctls) Set(key, value string) error {
	was, err := s.Get(key)
	if err != nil || was == value {
		return err
	}
	// Recorded first: a crash in between leaves a record that Restore takes for somebody else's change.
	recordErr := s.remember(key, change{Was: was, Set: value})
	if recordErr != nil {
		recordErr = fmt.Errorf("cleanup will not put %s back to %s: %w", key, was, recordErr)
	}
	return errors.Join(recordErr, s.write(key, value))
}

// Restore puts back what Set changed, but for the parameters in keep, and returns the paths of what it put back. What
// somebody else has changed since stays as it is.
func (s *Sysctls) Restore(keep ...string) ([]string, error) {
	record, err := s.load()
	if err != nil {
		return nil, err
	}
	before := len(record)
	var restored []string
	var errs []error
	for _, key := range slices.Sorted(maps.Keys(record)) {
		if slices.Contains(keep, key) {
			continue
		}
		is, err := s.Get(key)
		if err == nil && is == record[key].Set {
			if err = s.write(key, record[key].Was); err == nil {
				restored = append(restored, key)
			}
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // A link takes its parameters with it.
			errs = append(errs, err)
			continue
		}
		delete(record, key)
	}
	if len(record) != before {
		errs = append(errs, s.store(record))
	}
	return restored, errors.Join(errs...)
}

func (s *Sysctls) path(key string) (string, error) {
	if !filepath.IsLocal(key) {
		return "", fmt.Errorf("%q is not the path of a kernel parameter", key)
	}
	return filepath.Join(s.root, key), nil
}

func (s *Sysctls) write(key, value string) error {
	path, err := s.path(key)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return fmt.Errorf("setting a kernel parameter: %w", err)
	}
	_, err = f.WriteString(value + "\n")
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("setting a kernel parameter to %s: %w", value, err)
	}
	return nil
}

func (s *Sysctls) remember(key string, c change) error {
	record, err := s.load()
	if err != nil {
		return err
	}
	record[key] = c
	return s.store(record)
}

// load returns what is recorded. A record that is damaged is set aside, and so is in the way once only.
func (s *Sysctls) load() (map[string]change, error) {
	record := map[string]change{}
	content, err := os.ReadFile(s.record)
	if errors.Is(err, fs.ErrNotExist) {
		return record, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the record of kernel parameters: %w", err)
	}
	if err := json.Unmarshal(content, &record); err != nil {
		return nil, s.setAside(err)
	}
	for key := range record {
		if _, err := s.path(key); err != nil {
			return nil, s.setAside(err)
		}
	}
	if record == nil { // The file says null.
		record = map[string]change{}
	}
	return record, nil
}

func (s *Sysctls) setAside(why error) error {
	aside := s.record + ".bad"
	if err := os.Rename(s.record, aside); err != nil {
		return errors.Join(fmt.Errorf("the record of kernel parameters %s cannot be used: %w", s.record, why), err)
	}
	return fmt.Errorf("the record of kernel parameters %s cannot be used and is now %s: what was set until now stays, also after cleanup: %w",
		s.record, aside, why)
}

// store replaces the file as a whole, so that a crash leaves the old one or the new one.
func (s *Sysctls) store(record map[string]change) error {
	if len(record) == 0 {
		if err := os.Remove(s.record); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("removing the record of kernel parameters: %w", err)
		}
		return nil
	}
	content, err := json.MarshalIndent(record, "", "  ")
	if err != nil {
		return fmt.Errorf("writing the record of kernel parameters: %w", err)
	}
	if err := replaceFile(s.record, append(content, '\n')); err != nil {
		return fmt.Errorf("writing the record of kernel parameters: %w", err)
	}
	return nil
}

func replaceFile(path string, content []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}
