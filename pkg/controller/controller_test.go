// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"

	"github.com/smartnat/smartnat/pkg/calc"
	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/dataplane"
	"github.com/smartnat/smartnat/pkg/gateway"
)

type fakeSource struct{ synced atomic.Bool }

func (*fakeSource) Run(ctx context.Context) error { <-ctx.Done(); return nil }
func (s *fakeSource) HasSynced() bool             { return s.synced.Load() }
func (*fakeSource) Snapshot() calc.Snapshot       { return calc.Snapshot{} }

type fakeHost struct{}

func (fakeHost) Observe() (gateway.Host, error)            { return gateway.Host{}, nil }
func (fakeHost) Watch(ctx context.Context, _ func()) error { <-ctx.Done(); return nil }

// fakeDataplane notes what the worker asks for; each apply takes a second and fails as long as fail says so.
type fakeDataplane struct {
	mu    sync.Mutex
	calls []string
	fail  error
}

func (d *fakeDataplane) Apply(context.Context, gateway.State) (dataplane.Result, error) {
	time.Sleep(time.Second)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.calls = append(d.calls, "apply")
	return dataplane.Result{}, d.fail
}

func (d *fakeDataplane) Invalidate() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.calls = append(d.calls, "invalidate")
}

func (d *fakeDataplane) setFail(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fail = err
}

// take returns what was asked for since the last time.
func (d *fakeDataplane) take() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	calls := d.calls
	d.calls = nil
	return calls
}

type fixture struct {
	*Controller
	source *fakeSource
	plane  *fakeDataplane
	readys atomic.Int32
}

// start runs a Controller in the test's bubble until the test ends.
func start(t *testing.T, synced bool) *fixture {
	t.Helper()
	log := logrus.New()
	log.SetOutput(io.Discard)
	f := &fixture{source: &fakeSource{}, plane: &fakeDataplane{}}
	f.source.synced.Store(synced)
	f.Controller = New(Options{
		Config: config.Config{Resync: 30 * time.Second}, Host: fakeHost{}, Dataplane: f.plane, Log: log, Ready: func() { f.readys.Add(1) },
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- f.Run(ctx, f.source) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return f
}

func (f *fixture) expect(t *testing.T, after time.Duration, want ...string) {
	t.Helper()
	time.Sleep(after)
	synctest.Wait()
	if diff := cmp.Diff(want, f.plane.take()); diff != "" {
		t.Errorf("calls of the data plane (-want +got):\n%s", diff)
	}
}

func TestNothingIsWrittenBeforeTheSourceHasSynced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := start(t, false)
		f.Enqueue()
		f.expect(t, time.Minute)
		if n := f.readys.Load(); n != 0 {
			t.Error("ready before anything was applied")
		}
		f.source.synced.Store(true)
		f.expect(t, 2*time.Second, "apply")
		if n := f.readys.Load(); n != 1 {
			t.Errorf("ready %d times, want once", n)
		}
	})
}

func TestABurstIsCoalesced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := start(t, true)
		f.expect(t, 2*time.Second, "apply")
		f.Enqueue()
		time.Sleep(500 * time.Millisecond) // the worker is in the middle of an apply
		for range 1000 {
			f.Enqueue()
		}
		f.expect(t, 5*time.Second, "apply", "apply")
	})
}

func TestAChangeAfterQuietIsAppliedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := start(t, true)
		f.expect(t, 20*time.Second, "apply")
		f.Enqueue()
		f.expect(t, time.Second, "apply")
	})
}

func TestResyncReadsTheKernel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := start(t, true)
		f.expect(t, 2*time.Second, "apply")
		f.expect(t, 35*time.Second, "invalidate", "apply")
	})
}

func TestFailuresBackOffAndReadTheKernelAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := start(t, true)
		f.plane.setFail(errors.New("injected"))
		// Applies end after 1 s, then wait 0.5 s, 1 s, 2 s: at 1 s, 2.5 s, 4.5 s, 7.5 s.
		f.expect(t, 6*time.Second, "apply", "invalidate", "apply", "invalidate", "apply")
		if n := f.readys.Load(); n != 0 {
			t.Error("ready although nothing succeeded")
		}
		f.plane.setFail(nil)
		f.expect(t, 3*time.Second, "invalidate", "apply")
		if n := f.readys.Load(); n != 1 {
			t.Errorf("ready %d times, want once", n)
		}
	})
}

func TestEachFindingIsToldOnceAndTakenBackOnce(t *testing.T) {
	log, hook := logtest.NewNullLogger()
	l := findingLog{log: log}
	missing := calc.Finding{Namespace: "default", Name: "echo", Reason: "ServiceNotFound", Field: "spec.serviceName", Message: "no such Service"}
	var told []int
	for _, findings := range [][]calc.Finding{{missing}, {missing}, {}, {}} {
		hook.Reset()
		l.report(findings)
		told = append(told, len(hook.AllEntries()))
	}
	if diff := cmp.Diff([]int{1, 0, 1, 0}, told); diff != "" {
		t.Errorf("log lines a report (-want +got):\n%s", diff)
	}
}
