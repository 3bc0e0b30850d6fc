// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package sysctl reads and writes kernel parameters, and records their old values so that they can be restored. It does not
// know which parameters a gateway needs: pkg/dataplane does.
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

	"github.com/smartnat/smartnat/pkg/atomicfile"
)

const (
	root       = "/proc/sys"
	recordName = "sysctls.json"
)

// Sysctls reads and writes kernel parameters. It is not safe for concurrent use.
type Sysctls struct {
	root, record string
}

// change is the record of a changed parameter.
type change struct {
	Was string `json:"was"`
	Set string `json:"set"`
}

// New returns the parameters of the kernel. It records old values in runtimeDir, which should not survive a reboot, because
// parameters do not either.
func New(runtimeDir string) *Sysctls {
	return &Sysctls{root: root, record: filepath.Join(runtimeDir, recordName)}
}

// Get returns a parameter by its path, such as "net/ipv4/ip_forward". The error is fs.ErrNotExist if it does not exist.
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

// Before returns the value of a parameter before Set, or its current value if Set did not change it or another program did
// later.
func (s *Sysctls) Before(key string) (string, error) {
	is, err := s.Get(key)
	if err != nil {
		return "", err
	}
	// Leave a damaged record to load, which reports it and sets it aside.
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

// List returns the sorted paths of the parameters that match a pattern of filepath.Match.
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

// Set changes a parameter and records its old value. It changes the parameter even if the record fails.
func (s *Sysctls) Set(key, value string) error {
	was, err := s.Get(key)
	if err != nil || was == value {
		return err
	}
	// Record first: after a crash in between, Restore treats the parameter as changed by another process.
	recordErr := s.remember(key, change{Was: was, Set: value})
	if recordErr != nil {
		recordErr = fmt.Errorf("cleanup will not restore %s to %s: %w", key, was, recordErr)
	}
	return errors.Join(recordErr, s.write(key, value))
}

// Restore restores the parameters that Set changed, except for those in keep, and returns their paths. It leaves parameters
// that another process changed later.
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
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // The parameters of a link disappear with it.
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

// load returns the record. It sets a damaged record aside, so that it fails only once.
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
	if record == nil { // the file contains null
		record = map[string]change{}
	}
	return record, nil
}

func (s *Sysctls) setAside(why error) error {
	aside := s.record + ".bad"
	if err := os.Rename(s.record, aside); err != nil {
		return errors.Join(fmt.Errorf("the record of kernel parameters %s cannot be used: %w", s.record, why), err)
	}
	return fmt.Errorf("the record of kernel parameters %s cannot be used and is now %s: cleanup will not restore parameters set so far: %w",
		s.record, aside, why)
}

// store replaces the whole file, so that a crash leaves the old or the new one.
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
	return atomicfile.Write(path, content, 0o600)
}
