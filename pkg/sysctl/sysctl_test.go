// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package sysctl

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/smartnat/smartnat/pkg/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

const forward, filter = "net/ipv4/ip_forward", "net/ipv4/conf/eth0.100/rp_filter"

// fake returns parameters in plain files.
func fake(t *testing.T) (s *Sysctls, write func(key, value string)) {
	t.Helper()
	root := t.TempDir()
	write = func(key, value string) {
		t.Helper()
		path := filepath.Join(root, key)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(value+"\n"), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	write(forward, "0")
	write(filter, "1")
	return &Sysctls{root: root, record: filepath.Join(t.TempDir(), "run", recordName)}, write
}

func set(t *testing.T, s *Sysctls, key, value string) {
	t.Helper()
	if err := s.Set(key, value); err != nil {
		t.Fatal(err)
	}
	expect(t, s, key, value)
}

func expect(t *testing.T, s *Sysctls, key, want string) {
	t.Helper()
	if got, err := s.Get(key); err != nil || got != want {
		t.Errorf("%s = %q, %v; want %q", key, got, err, want)
	}
}

func restore(t *testing.T, s *Sysctls, want ...string) {
	t.Helper()
	restored, err := s.Restore()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, restored); diff != "" {
		t.Errorf("restored (-want +got):\n%s", diff)
	}
	if _, err := os.Stat(s.record); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the record is still there: %v", err)
	}
}

func TestSetAndRestore(t *testing.T) {
	t.Run("old values", func(t *testing.T) {
		s, _ := fake(t)
		set(t, s, forward, "1")
		set(t, s, filter, "2")
		restore(t, &Sysctls{root: s.root, record: s.record}, filter, forward) // by another process
		expect(t, s, forward, "0")
		expect(t, s, filter, "1")
		restore(t, s)
	})
	t.Run("except for those to keep", func(t *testing.T) {
		s, _ := fake(t)
		set(t, s, forward, "1")
		set(t, s, filter, "2")
		if restored, err := s.Restore(forward, "net/ipv4/other"); err != nil || !slices.Equal(restored, []string{filter}) {
			t.Errorf("restored %q, %v", restored, err)
		}
		expect(t, s, forward, "1")
		restore(t, s, forward)
	})
	t.Run("set again by another process and by us", func(t *testing.T) {
		s, write := fake(t)
		set(t, s, filter, "2")
		write(filter, "0")
		set(t, s, filter, "2")
		restore(t, s, filter)
		expect(t, s, filter, "0")
	})
	t.Run("changed later by another process", func(t *testing.T) {
		s, write := fake(t)
		set(t, s, filter, "2")
		write(filter, "0")
		restore(t, s)
		expect(t, s, filter, "0")
	})
	t.Run("not changed by us", func(t *testing.T) {
		s, write := fake(t)
		write(forward, "1")
		set(t, s, forward, "1")
		restore(t, s)
		expect(t, s, forward, "1")
	})
	t.Run("a removed link", func(t *testing.T) {
		s, _ := fake(t)
		set(t, s, filter, "2")
		set(t, s, forward, "1")
		if err := os.RemoveAll(filepath.Join(s.root, filepath.Dir(filter))); err != nil {
			t.Fatal(err)
		}
		restore(t, s, forward)
	})
}

func TestErrors(t *testing.T) {
	t.Run("no such parameter", func(t *testing.T) {
		s, _ := fake(t)
		if err := s.Set("net/ipv4/conf/eth7/rp_filter", "2"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("err = %v, want fs.ErrNotExist", err)
		}
		restore(t, s)
	})
	t.Run("a path that leads elsewhere", func(t *testing.T) {
		s, _ := fake(t)
		for _, key := range []string{"../etc/passwd", "/etc/passwd", ""} {
			if _, err := s.Get(key); err == nil || !strings.Contains(err.Error(), "not the path of a kernel parameter") {
				t.Errorf("Get(%q): err = %v", key, err)
			}
		}
	})
	for name, damaged := range map[string]string{"torn": "{", "with an invalid path": `{"../outside":{"was":"1","set":"2"}}`} {
		t.Run("a damaged record, "+name, func(t *testing.T) {
			for _, use := range []struct {
				name string
				do   func(*Sysctls) error
				want string
			}{
				{"Set", func(s *Sysctls) error { return s.Set(forward, "1") }, "cleanup will not restore " + forward + " to 0"},
				{"Restore", func(s *Sysctls) error { _, err := s.Restore(forward); return err }, "cleanup will not restore parameters set so far"},
			} {
				s, _ := fake(t)
				set(t, s, filter, "2")
				if err := os.WriteFile(s.record, []byte(damaged), 0o600); err != nil {
					t.Fatal(err)
				}
				aside := s.record + ".bad"
				if err := use.do(s); err == nil || !strings.Contains(err.Error(), aside) || !strings.Contains(err.Error(), use.want) {
					t.Errorf("%s: err = %v, want %q, and the file renamed to %s", use.name, err, use.want, aside)
				}
				if text, err := os.ReadFile(aside); err != nil || string(text) != damaged {
					t.Errorf("%s: set aside is %q, %v", use.name, text, err)
				}
				set(t, s, filter, "1")
				restore(t, s, filter) // reported once; later changes are restored
				expect(t, s, filter, "2")
			}
		})
	}
	t.Run("no other files next to the record", func(t *testing.T) {
		s, _ := fake(t)
		set(t, s, forward, "1")
		entries, err := os.ReadDir(filepath.Dir(s.record))
		if err != nil || len(entries) != 1 {
			t.Errorf("%d files, %v; want only the record", len(entries), err)
		}
	})
}

func TestKernel(t *testing.T) {
	testenv.NewNetNS(t)
	s := New(t.TempDir())
	const key = "net/ipv4/conf/lo/rp_filter"
	was, err := s.Get(key)
	if err != nil {
		t.Fatal(err)
	}
	for _, value := range []string{"1", "2"} {
		if value != was {
			set(t, s, key, value)
			restore(t, s, key)
			expect(t, s, key, was)
		}
	}
	set(t, s, key, "2")
	if err := s.Set(key, "nonsense"); err == nil {
		t.Error("the kernel accepts an invalid value")
	}
	expect(t, s, key, "2")
}

// TestBefore expects that Before changes nothing, including a damaged record.
func TestBefore(t *testing.T) {
	dir := t.TempDir()
	s := &Sysctls{root: filepath.Join(dir, "sys"), record: filepath.Join(dir, "run", recordName)}
	file := filepath.Join(s.root, "forward")
	write := func(path, text string) {
		t.Helper()
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	expect := func(when, want string) {
		t.Helper()
		if got, err := s.Before("forward"); err != nil || got != want {
			t.Errorf("%s: %q, %v; want %q", when, got, err, want)
		}
	}
	write(file, "0\n")
	expect("untouched", "0")
	if err := s.Set("forward", "1"); err != nil {
		t.Fatal(err)
	}
	expect("set by us", "0")
	write(file, "2\n")
	expect("changed by another program since", "2")
	write(s.record, "{")
	if got, err := s.Before("forward"); err == nil {
		t.Errorf("%q from a damaged record, want an error", got)
	}
	if _, err := os.Stat(s.record); err != nil {
		t.Errorf("the damaged record was moved: %v", err)
	}
}
