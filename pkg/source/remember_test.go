// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package source

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	logtest "github.com/sirupsen/logrus/hooks/test"
	corev1 "k8s.io/api/core/v1"

	"github.com/smartnat/smartnat/pkg/objects"
	"github.com/smartnat/smartnat/pkg/snapshotfile"
)

// fakeSource holds one Service, whose name is the number of changes so far.
type fakeSource struct {
	changed func()
	changes atomic.Int64
}

func (*fakeSource) Run(ctx context.Context) error { <-ctx.Done(); return nil }
func (s *fakeSource) HasSynced() bool             { return s.changes.Load() > 0 }
func (*fakeSource) Contact() Contact              { return Contact{} }
func (s *fakeSource) change()                     { s.changes.Add(1); s.changed() }
func (s *fakeSource) Snapshot() objects.Snapshot {
	return objects.Snapshot{Services: []*corev1.Service{service("ns", fmt.Sprint(s.changes.Load()), "")}}
}

// fakeMemory records the time of each save and the name of the saved Service.
type fakeMemory struct {
	mu      sync.Mutex
	started time.Time
	saved   snapshotfile.Saved
	loads   error
	saves   error
	calls   []string
	// outdated records the calls of SetOutdated with their times.
	outdated []string
	// during is called during a save.
	during func()
}

func (m *fakeMemory) SetOutdated(outdated bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.outdated = append(m.outdated, fmt.Sprintf("%s %t", time.Since(m.started), outdated))
	return nil
}

func (m *fakeMemory) Load() (snapshotfile.Saved, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.calls = append(m.calls, fmt.Sprintf("%s load", time.Since(m.started)))
	return m.saved, m.loads
}

func (m *fakeMemory) Save(s snapshotfile.Saved) error {
	if m.during != nil {
		m.during()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.calls = append(m.calls, fmt.Sprintf("%s save %s", time.Since(m.started), s.Services[0].Name))
	return m.saves
}

func (m *fakeMemory) setSaves(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.saves = err
}

type remembered struct {
	*Remembering
	source  *fakeSource
	memory  *fakeMemory
	log     *logtest.Hook
	changes atomic.Int64
	stop    func()
}

func remember(t *testing.T, memory *fakeMemory) *remembered {
	t.Helper()
	return rememberFrom(t, memory, true)
}

func rememberFrom(t *testing.T, memory *fakeMemory, restores bool) *remembered {
	t.Helper()
	log, hook := testLog()
	memory.started = time.Now()
	r := &remembered{source: &fakeSource{}, memory: memory, log: hook}
	starter := func(changed func()) (Source, error) { r.source.changed = changed; return r.source, nil }
	var err error
	if r.Remembering, err = Remember(starter, memory, []string{"here"}, restores, func() { r.changes.Add(1) }, log); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- r.Run(ctx) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(r.stop)
	return r
}

func (r *remembered) expect(t *testing.T, what string, want ...string) {
	t.Helper()
	synctest.Wait()
	r.memory.mu.Lock()
	defer r.memory.mu.Unlock()
	if diff := cmp.Diff(want, r.memory.calls); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func TestWhatIsKnownIsSavedNowAndThen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := remember(t, &fakeMemory{})
		r.source.change()
		time.Sleep(time.Minute)
		r.expect(t, "one save of the first Snapshot", "1s save 1")
		for range 774 {
			r.source.change()
			time.Sleep(31 * time.Millisecond)
		}
		time.Sleep(time.Minute)
		saves := []string{"1s save 1", "1m1s save 34", "1m11s save 356", "1m21s save 679", "1m31s save 775"}
		r.expect(t, "24 s of changes", saves...)
		if got := r.changes.Load(); got != 775 {
			t.Errorf("%d changes, want 775", got)
		}
		r.source.change()
		r.stop()
		r.expect(t, "the end", append(saves, "2m23.994s save 776")...)
	})
}

func TestWhatWasSavedIsUsedWhileTheClusterCannotBeRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		at := time.Date(2026, 11, 24, 0, 0, 0, 0, time.UTC)
		old := snapshotfile.Saved{Origin: []string{"elsewhere", "here"}, At: at, Snapshot: objects.Snapshot{Services: []*corev1.Service{service("ns", "old", "")}}}
		r := remember(t, &fakeMemory{saved: old})
		time.Sleep(patience - time.Second)
		synctest.Wait()
		if r.HasSynced() {
			t.Error("synced before the cluster had time to respond")
		}
		time.Sleep(time.Hour)
		r.expect(t, "one load, no save", "5s load")
		if got, restored := r.Restored(); !r.HasSynced() || !restored || !got.Equal(at) || names(r.Snapshot()) != "Service old" || r.changes.Load() != 1 {
			t.Errorf("synced %t, restored %t from %s, holds %s, %d changes", r.HasSynced(), restored, got, names(r.Snapshot()), r.changes.Load())
		}
		if n := messages(r.log, "using saved snapshot"); n != 1 {
			t.Errorf("%d log lines about the saved snapshot, want 1", n)
		}
		r.source.change()
		if _, restored := r.Restored(); restored || !r.HasSynced() || names(r.Snapshot()) != "Service 1" || r.changes.Load() != 2 {
			t.Errorf("after the cluster responds: restored %t, holds %s, %d changes", restored, names(r.Snapshot()), r.changes.Load())
		}
		time.Sleep(time.Minute)
		r.expect(t, "saved", "5s load", "1h0m5s save 1")
	})
}

// TestWhatWasSavedIsLeftAloneWhereNewerIsKnown covers a process that switches to another source by its config: its objects
// are newer than the saved ones.
func TestWhatWasSavedIsLeftAloneWhereNewerIsKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := rememberFrom(t, &fakeMemory{saved: snapshotfile.Saved{Origin: []string{"here"}}}, false)
		time.Sleep(time.Hour)
		r.expect(t, "no load")
		if r.HasSynced() || r.changes.Load() != 0 {
			t.Error("synced or reported a change without objects")
		}
	})
}

func TestWhatCannotBeUsedIsNot(t *testing.T) {
	for _, test := range []struct {
		name   string
		memory *fakeMemory
		want   string
	}{
		{"nothing saved", &fakeMemory{loads: fmt.Errorf("reading: %w", fs.ErrNotExist)}, "no saved snapshot"},
		{"a bad file", &fakeMemory{loads: errors.New("is cut off")}, "cannot use saved snapshot"},
		{"older than the rules in effect", &fakeMemory{loads: fmt.Errorf("the file %w", snapshotfile.ErrOutdated)}, "cannot use saved snapshot"},
		{"of another cluster", &fakeMemory{saved: snapshotfile.Saved{Origin: []string{"elsewhere"}}}, "another origin"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := remember(t, test.memory)
				time.Sleep(time.Hour)
				synctest.Wait()
				if r.HasSynced() || r.changes.Load() != 0 {
					t.Error("synced or reported a change without objects")
				}
				if n := messages(r.log, test.want); n != 1 || len(r.log.AllEntries()) != 1 {
					t.Errorf("%d log lines, %d of them with %q; want 1 and 1", len(r.log.AllEntries()), n, test.want)
				}
				r.source.change()
				if !r.HasSynced() || names(r.Snapshot()) != "Service 1" {
					t.Error("the objects of the cluster are not used after it responds")
				}
			})
		})
	}
}

func TestADiskThatCannotBeWrittenIsToldOnceAndTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := remember(t, &fakeMemory{saves: errors.New("no space left on device")})
		r.source.change()
		time.Sleep(150 * time.Second)
		r.expect(t, "retries", "1s save 1", "1m1s save 1", "2m1s save 1")
		if n := messages(r.log, "failed to save snapshot"); n != 1 {
			t.Errorf("%d log lines about the failure, want 1", n)
		}
		r.memory.setSaves(nil)
		time.Sleep(time.Hour)
		r.expect(t, "no save without a change", "1s save 1", "1m1s save 1", "2m1s save 1", "3m1s save 1")
		if n := messages(r.log, "after earlier failure"); n != 1 {
			t.Errorf("%d log lines about the recovery, want 1", n)
		}
	})
}

// TestWhatIsSavedIsOutdatedFromTheChangeToTheSave covers a start without a cluster between a change and its save: the
// saved Snapshot would undo the change in the kernel.
func TestWhatIsSavedIsOutdatedFromTheChangeToTheSave(t *testing.T) {
	expect := func(t *testing.T, r *remembered, want ...string) {
		t.Helper()
		synctest.Wait()
		r.memory.mu.Lock()
		defer r.memory.mu.Unlock()
		if diff := cmp.Diff(want, r.memory.outdated); diff != "" {
			t.Errorf("SetOutdated (-want +got):\n%s", diff)
		}
	}
	t.Run("saved", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := remember(t, &fakeMemory{})
			r.source.change()
			expect(t, r, "0s true")
			r.source.change()
			time.Sleep(time.Hour)
			expect(t, r, "0s true", "1s false")
			r.source.change()
			r.stop()
			expect(t, r, "0s true", "1s false", "1h0m0s true", "1h0m0s false")
		})
	})
	t.Run("a change during a save", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			memory := &fakeMemory{}
			r := remember(t, memory)
			memory.during = sync.OnceFunc(func() { r.source.change() })
			r.source.change()
			time.Sleep(5 * time.Second)
			expect(t, r, "0s true", "1s true")
			time.Sleep(time.Minute)
			expect(t, r, "0s true", "1s true", "11s false")
		})
	})
	t.Run("a disk that cannot be written", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := remember(t, &fakeMemory{saves: errors.New("no space left on device")})
			r.source.change()
			time.Sleep(time.Hour)
			r.source.change()
			expect(t, r, "0s true")
			r.memory.setSaves(nil)
			time.Sleep(time.Minute)
			expect(t, r, "0s true", "1h0m1s false")
		})
	})
}
