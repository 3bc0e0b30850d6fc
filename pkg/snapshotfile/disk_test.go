// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package snapshotfile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/smartnat/smartnat/pkg/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// disk mounts a file system of a few kilobytes until the test ends.
func disk(t *testing.T) string {
	t.Helper()
	testenv.RequireKernel(t)
	folder := t.TempDir()
	if err := unix.Mount("disk", folder, "tmpfs", 0, "size=16k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(folder, 0); err != nil {
			t.Error(err)
		}
	})
	return folder
}

// large needs more than half of the disk.
func large() Saved {
	s := example()
	s.Mappings[0].Annotations = map[string]string{"text": strings.Repeat("x", 9<<10)}
	return s
}

// TestFullDisk checks that the old file stays, and no other, if the new one does not fit next to it.
func TestFullDisk(t *testing.T) {
	folder := disk(t)
	file := fileAt(t, filepath.Join(folder, "objects.jsonl"))
	if err := file.Save(large()); err != nil {
		t.Fatal(err)
	}
	if err := file.Save(large()); !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), file.String()) {
		t.Errorf("error %v, want no space for %s", err, file)
	}
	expectOnly(t, folder, "objects.jsonl")
	expectLoaded(t, file, large())
	if err := file.Save(example()); err != nil { // a small one
		t.Error(err)
	}
	expectLoaded(t, file, example())
}

// TestReadOnlyDisk checks a disk that became read-only, as after an error: files can be loaded but not saved, and a bad file
// stays in place.
func TestReadOnlyDisk(t *testing.T) {
	folder := disk(t)
	file := fileAt(t, filepath.Join(folder, "objects.jsonl"))
	if err := file.Save(example()); err != nil {
		t.Fatal(err)
	}
	bad := fileAt(t, filepath.Join(folder, "bad.jsonl"))
	if err := os.WriteFile(bad.String(), text(t, example())[:400], 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("", folder, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	if err := file.Save(large()); !errors.Is(err, unix.EROFS) || !strings.Contains(err.Error(), file.String()) {
		t.Errorf("error %v, want that %s cannot be written", err, file)
	}
	expectLoaded(t, file, example())
	for range 2 {
		_, err := bad.Load()
		if !errors.Is(err, unix.EROFS) || !strings.Contains(err.Error(), bad.String()+" cannot be used: it is cut off after") {
			t.Errorf("error %v does not say what is bad, and that it could not be set aside", err)
		}
	}
	expectOnly(t, folder, "bad.jsonl", "objects.jsonl")
}

// TestNoDisk checks that Save and Load fail if the folder does not exist and cannot be created.
func TestNoDisk(t *testing.T) {
	folder := disk(t)
	if err := os.WriteFile(filepath.Join(folder, "state"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	file := fileAt(t, filepath.Join(folder, "state", "objects.jsonl"))
	if err := file.Save(example()); !errors.Is(err, unix.ENOTDIR) {
		t.Errorf("saving: error %v, want that the folder is none", err)
	}
	if _, err := file.Load(); err == nil {
		t.Error("Load succeeded")
	}
}

// TestKilledWhileSaving checks that the partial or complete temporary file of a killed process is never read, and replaced by
// the next Save.
func TestKilledWhileSaving(t *testing.T) {
	whole := text(t, large())
	for _, length := range []int{0, 1, len(whole) / 2, len(whole)} {
		folder := t.TempDir()
		file := fileAt(t, filepath.Join(folder, "objects.jsonl"))
		if err := os.WriteFile(file.String()+".new", whole[:length], 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := file.Load(); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%d bytes of the first file: error %v, want that nothing was saved", length, err)
		}
		if err := file.Save(example()); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file.String()+".new", whole[:length], 0o600); err != nil {
			t.Fatal(err)
		}
		expectLoaded(t, file, example())
		if err := file.Save(example()); err != nil {
			t.Fatal(err)
		}
		expectLoaded(t, file, example())
		expectOnly(t, folder, "objects.jsonl")
	}
}

// TestWhatIsNoFileIsSetAside checks that other file types and far too large files are moved aside unread.
func TestWhatIsNoFileIsSetAside(t *testing.T) {
	for _, test := range []struct {
		name string
		make func(path string) error
	}{
		{"a folder", func(path string) error { return os.MkdirAll(filepath.Join(path, "in it"), 0o700) }},
		{"a pipe without a writer", func(path string) error { return unix.Mkfifo(path, 0o600) }},
		{"too large", func(path string) error {
			return errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, maxSize+1))
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			file := fileAt(t, filepath.Join(t.TempDir(), "objects.jsonl"))
			if err := test.make(file.String()); err != nil {
				t.Fatal(err)
			}
			if _, err := file.Load(); err == nil || !strings.Contains(err.Error(), "is now "+file.String()+".bad: it is not a regular file of at most") {
				t.Errorf("error %v does not say what it is and where", err)
			}
			if err := file.Save(example()); err != nil {
				t.Fatal(err)
			}
			expectLoaded(t, file, example())
		})
	}
}

// TestSetAsideAgain checks that a file that is moved aside replaces an earlier one, of any content.
func TestSetAsideAgain(t *testing.T) {
	folder := t.TempDir()
	file := fileAt(t, filepath.Join(folder, "objects.jsonl"))
	for _, content := range []string{"first", "second"} {
		if err := os.WriteFile(file.String(), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := file.Load(); err == nil {
			t.Errorf("%q was loaded as objects", content)
		}
		if aside, err := os.ReadFile(file.String() + ".bad"); err != nil || string(aside) != content {
			t.Errorf("set aside is %q, %v; want %q", aside, err, content)
		}
	}
	expectOnly(t, folder, "objects.jsonl.bad")
}

func expectLoaded(t *testing.T, file File, want Saved) {
	t.Helper()
	got, err := file.Load()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", file, diff)
	}
}

func expectOnly(t *testing.T, folder string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("in the folder (-want +got):\n%s", diff)
	}
}
