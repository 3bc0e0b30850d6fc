// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package snapshotfile

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/pkg/objects"
)

func example() Saved {
	meta := metav1.ObjectMeta{Namespace: "default", Name: "echo", ResourceVersion: "7"}
	return Saved{
		Origin: []string{"https://relay-1:8443", "https://relay-2:8443"},
		At:     time.Date(2026, 11, 25, 10, 0, 0, 0, time.UTC),
		Snapshot: objects.Snapshot{
			Mappings: []*v1alpha1.Mapping{{
				ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "echo", Generation: 2, CreationTimestamp: metav1.Unix(1700000000, 0)},
				Spec:       v1alpha1.MappingSpec{Addresses: []string{"198.51.100.10"}, ServiceName: "echo", Ports: []v1alpha1.MappingPort{{Port: 80}}},
			}},
			Services: []*corev1.Service{{ObjectMeta: meta, Spec: corev1.ServiceSpec{ClusterIP: "10.96.0.10", Ports: []corev1.ServicePort{{Port: 80}}}}},
			EndpointSlices: []*discoveryv1.EndpointSlice{{
				ObjectMeta: meta, AddressType: discoveryv1.AddressTypeIPv4,
				Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"10.244.1.10"}, Conditions: discoveryv1.EndpointConditions{Ready: new(true)}}},
				Ports:     []discoveryv1.EndpointPort{{Port: new(int32(8080))}},
			}},
		},
	}
}

func text(t *testing.T, s Saved) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := encode(&b, s); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func fileAt(t *testing.T, path string) File {
	t.Helper()
	return NewFile(path, filepath.Join(t.TempDir(), "run", "newer"))
}

func TestWhatIsSavedIsLoaded(t *testing.T) {
	file := fileAt(t, filepath.Join(t.TempDir(), "state", "objects.jsonl"))
	if _, err := file.Load(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v, want that nothing was saved", err)
	}
	changed := example()
	changed.Services = nil
	for _, want := range []Saved{example(), changed, {Origin: []string{"nothing in it"}}} {
		if err := file.Save(want); err != nil {
			t.Fatal(err)
		}
		got, err := file.Load()
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
	if mode := mode(t, file.String()); mode != 0o600 {
		t.Errorf("mode is %o, want 600", mode)
	}
}

func mode(t *testing.T, path string) fs.FileMode {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Mode().Perm()
}

// TestTornFilesAreRefused checks a power failure at each byte.
func TestTornFilesAreRefused(t *testing.T) {
	whole := text(t, example())
	for n := range whole {
		if _, err := decode(whole[:n]); err == nil {
			t.Fatalf("the first %d of %d bytes were loaded as a complete file", n, len(whole))
		}
	}
}

// TestDamageIsRefused checks that each flipped bit is refused or does not matter.
func TestDamageIsRefused(t *testing.T) {
	whole := text(t, example())
	refused := 0
	for i := range whole {
		for bit := range 8 {
			damaged := bytes.Clone(whole)
			damaged[i] ^= 1 << bit
			got, err := decode(damaged)
			if err != nil {
				refused++
			} else if diff := cmp.Diff(example(), got); diff != "" {
				t.Fatalf("bit %d of byte %d: loaded as\n%s", bit, i, diff)
			}
		}
	}
	// Two things do not matter: the case of letters in two keys, and the kind of white space in JSON.
	if least := 8*len(whole) - 50; refused < least {
		t.Errorf("%d of %d damaged files were refused, want at least %d", refused, 8*len(whole), least)
	}
}

func TestBadFilesAreNamedAndSetAside(t *testing.T) {
	whole := string(text(t, example()))
	for _, test := range []struct{ name, text, want string }{
		{"empty", "", "lacks the header of format smartnat-objects"},
		{"foreign", "apiVersion: v1\nkind: List\n", "lacks the header"},
		{"binary", "\x7fELF\x00\x00", "lacks the header"},
		{"an older version", strings.Replace(whole, `"version":1`, `"version":0`, 1), "is of version 0 of its format, must be 1"},
		{"a newer version", strings.Replace(whole, `"version":1`, `"version":2`, 1), "is of version 2 of its format, must be 1"},
		{"nothing but zeros, as a file system may leave it", strings.Repeat("\x00", len(whole)), "lacks the header"},
		{"a good beginning, then zeros", whole[:len(whole)/2] + strings.Repeat("\x00", len(whole)/2), "is cut off after"},
		{"two files in one", whole + whole, "is damaged"},
		{"truncated", whole[:len(whole)/2], "is cut off after"},
		{"damaged", strings.Replace(whole, "10.244.1.10", "10.244.1.11", 1), "is damaged"},
		{"one line too few", strings.Replace(whole, `"objects":3`, `"objects":4`, 1), "holds 3 objects, must hold 4"},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "objects.jsonl")
			if err := os.WriteFile(path, []byte(test.text), 0o600); err != nil {
				t.Fatal(err)
			}
			file := fileAt(t, path)
			_, err := file.Load()
			if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), path) {
				t.Errorf("error %v does not name %s and say %q", err, path, test.want)
			}
			if aside, err := os.ReadFile(path + ".bad"); err != nil || string(aside) != test.text {
				t.Errorf("set aside is %q, %v", aside, err)
			}
			if _, err := file.Load(); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the second error is %v, want fs.ErrNotExist", err)
			}
			if err := file.Save(example()); err != nil {
				t.Errorf("cannot be saved again: %v", err)
			}
		})
	}
}

// TestWhatCannotBeSavedLeavesTheOld checks that the old file stays unchanged on a full disk, and if nothing can be written.
func TestWhatCannotBeSavedLeavesTheOld(t *testing.T) {
	for _, test := range []struct {
		name   string
		spoil  func(path string) error
		reason error
	}{
		{"full disk", func(path string) error { return os.Symlink("/dev/full", path+".new") }, syscall.ENOSPC},
		{"not writable", func(path string) error { return os.Mkdir(path+".new", 0o700) }, syscall.EISDIR},
	} {
		t.Run(test.name, func(t *testing.T) {
			file := fileAt(t, filepath.Join(t.TempDir(), "objects.jsonl"))
			if err := file.Save(example()); err != nil {
				t.Fatal(err)
			}
			if err := test.spoil(file.String()); err != nil {
				t.Fatal(err)
			}
			if err := file.Save(Saved{}); !errors.Is(err, test.reason) || !strings.Contains(err.Error(), file.String()) {
				t.Errorf("error %v, want %v of %s", err, test.reason, file)
			}
			got, err := file.Load()
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(example(), got); diff != "" {
				t.Errorf("the old file (-want +got):\n%s", diff)
			}
		})
	}
}

func TestFrom(t *testing.T) {
	s := example()
	for _, test := range []struct {
		origin []string
		want   bool
	}{
		{[]string{"https://relay-2:8443"}, true},
		{[]string{"https://relay-3:8443", "https://relay-1:8443"}, true},
		{[]string{"https://relay-3:8443"}, false},
		{nil, false},
	} {
		if got := s.From(test.origin); got != test.want {
			t.Errorf("from %v: %t, want %t", test.origin, got, test.want)
		}
	}
}

// FuzzDecode decodes arbitrary files: an accepted one keeps its content when it is saved and loaded again.
func FuzzDecode(f *testing.F) {
	var b bytes.Buffer
	if err := encode(&b, example()); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Add([]byte("{}\n"))
	f.Fuzz(func(t *testing.T, content []byte) {
		saved, err := decode(content)
		if err != nil {
			return
		}
		saved.Rejected = nil
		again, err := decode(text(t, saved))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(saved, again); diff != "" {
			t.Errorf("(-first +again):\n%s", diff)
		}
	})
}

// TestOutdated checks that newer state is never rolled back to the saved one.
func TestOutdated(t *testing.T) {
	file := fileAt(t, filepath.Join(t.TempDir(), "objects.jsonl"))
	if err := file.Save(example()); err != nil {
		t.Fatal(err)
	}
	for _, outdated := range []bool{false, true, true, false, true, false} {
		if err := file.SetOutdated(outdated); err != nil {
			t.Fatal(err)
		}
		if _, err := file.Load(); errors.Is(err, ErrOutdated) != outdated || !outdated && err != nil {
			t.Errorf("outdated %t: error %v", outdated, err)
		}
	}
	expectLoaded(t, file, example())
}

// TestObjectsThatNoAPIServerStored checks that invalid objects in an intact file are left out and reported by line; the others
// are used.
func TestObjectsThatNoAPIServerStored(t *testing.T) {
	bad := example()
	for i := range 2 {
		m := bad.Mappings[0].DeepCopy()
		m.Name = []string{"x\nCOMMIT\n", "Echo"}[i]
		bad.Mappings = append(bad.Mappings, m)
	}
	o, e := bad.Services[0].DeepCopy(), bad.EndpointSlices[0].DeepCopy()
	o.Spec.Ports[0].Name, e.Namespace = "\x1b[2J", "a/b"
	bad.Services, bad.EndpointSlices = append(bad.Services, o), append(bad.EndpointSlices, e)
	file := fileAt(t, filepath.Join(t.TempDir(), "objects.jsonl"))
	if err := file.Save(bad); err != nil {
		t.Fatal(err)
	}
	got, err := file.Load()
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{`Mapping "default/x\nCOMMIT\n": metadata.name`, `Mapping "default/Echo": metadata.name`,
		`Service "default/echo": spec.ports.name`, `EndpointSlice "a/b/echo": metadata.namespace`} {
		if i >= len(got.Rejected) || !strings.HasPrefix(got.Rejected[i], want) || strings.Contains(got.Rejected[i], "\n") {
			t.Errorf("%q were rejected, want %s", got.Rejected, want)
		}
	}
	got.Rejected = nil
	if diff := cmp.Diff(example(), got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
