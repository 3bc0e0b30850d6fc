// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"

	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/dataplane"
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/objects"
	"github.com/smartnat/smartnat/pkg/packet"
)

// fakeSource counts its changes and records the version that the last Snapshot contained.
type fakeSource struct {
	synced        atomic.Bool
	version, seen atomic.Int64
}

func (*fakeSource) Run(ctx context.Context) error { <-ctx.Done(); return nil }
func (s *fakeSource) HasSynced() bool             { return s.synced.Load() }
func (s *fakeSource) Snapshot() objects.Snapshot {
	s.seen.Store(s.version.Load())
	return objects.Snapshot{}
}

// fakeHost counts its observations.
type fakeHost struct {
	mu           sync.Mutex
	observations int
	fail         error
	listeners    []gateway.Listener
	others       gateway.OtherRules
	changed      chan struct{}
}

func (h *fakeHost) Listeners() ([]gateway.Listener, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.listeners, h.fail
}

func (h *fakeHost) OtherRules() (gateway.OtherRules, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.others, h.fail
}

func (h *fakeHost) setOthers(others gateway.OtherRules) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.others = others
}

func (h *fakeHost) setListeners(listeners ...gateway.Listener) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.listeners = listeners
}

func (h *fakeHost) Observe() (gateway.Host, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.observations++
	return gateway.Host{Listeners: h.listeners, Others: h.others}, h.fail
}

func (h *fakeHost) setFail(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.fail = err
}

func (h *fakeHost) observed() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.observations
}

func (h *fakeHost) Watch(ctx context.Context, changed func()) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-h.changed:
			changed()
		}
	}
}

// fakeDataplane records the worker's calls. Each apply takes a second and returns fail.
type fakeDataplane struct {
	mu    sync.Mutex
	calls []string
	fail  error
	// inPlace says that every rule is in the kernel, even if something else failed.
	inPlace bool
	// checks counts calls of Check, which return harmed until the next apply.
	checks int
	harmed bool
	// written makes the watch report a write and then fail.
	written chan struct{}
	// applied, if set, is called at the end of each apply.
	applied func()
}

func (d *fakeDataplane) Apply(context.Context, gateway.State) (dataplane.Result, error) {
	time.Sleep(time.Second)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.calls = append(d.calls, "apply")
	d.harmed = false
	if d.applied != nil {
		d.applied()
	}
	return dataplane.Result{Changes: dataplane.Changes{InPlace: d.inPlace, Took: dataplane.Took{
		Build: 1250 * time.Microsecond, Diff: 2500 * time.Microsecond, Restore: 3001 * time.Microsecond, Cut: 4 * time.Millisecond,
	}}}, d.fail
}

func (d *fakeDataplane) Watch(ctx context.Context, changed func()) error {
	select {
	case <-ctx.Done():
		return nil
	case <-d.written:
		changed()
		return errors.New("injected")
	}
}

// Guard records the call.
func (d *fakeDataplane) Guard(context.Context, gateway.State) (dataplane.Result, error) {
	d.note("guard")
	d.mu.Lock()
	defer d.mu.Unlock()
	return dataplane.Result{}, d.fail
}

// Try refuses nothing.
func (d *fakeDataplane) Try(context.Context, gateway.State) error { return nil }
func (d *fakeDataplane) HostChanged()                             { d.note("host changed") }
func (d *fakeDataplane) Verify()                                  { d.note("verify") }
func (d *fakeDataplane) Plan(context.Context, gateway.State) (dataplane.Plan, error) {
	return dataplane.Plan{}, nil
}

func (d *fakeDataplane) Tracer(context.Context, gateway.Family) (packet.Tracer, error) {
	return nil, nil
}

// Check only counts calls, because one comes every few seconds.
func (d *fakeDataplane) Check() (bool, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.checks++
	return d.harmed, nil
}

func (d *fakeDataplane) note(call string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.calls = append(d.calls, call)
}

func (d *fakeDataplane) setFail(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fail = err
}

func (d *fakeDataplane) setInPlace(inPlace bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.inPlace = inPlace
}

// take returns the calls since the last take.
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
	host   *fakeHost
	plane  *fakeDataplane
	log    *logtest.Hook
	readys atomic.Int32
}

// start runs a Controller in the test's synctest bubble until the test ends. The change functions adjust its Options before
// it runs: what a test changes afterwards races with the first Observe and the first guard, which take no time.
func start(t *testing.T, synced bool, change ...func(*Options)) *fixture {
	t.Helper()
	log, hook := logtest.NewNullLogger()
	log.SetLevel(logrus.DebugLevel)
	f := &fixture{source: &fakeSource{}, host: &fakeHost{changed: make(chan struct{})}, plane: &fakeDataplane{written: make(chan struct{})}, log: hook}
	f.source.synced.Store(synced)
	options := Options{
		Config: config.Config{Resync: 30 * time.Second}, Host: f.host, Dataplane: f.plane, Log: log, Ready: func() { f.readys.Add(1) },
	}
	for _, c := range change {
		c(&options)
	}
	f.Controller = New(options)
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

// hostFails makes each observation of the host fail from the start.
func hostFails(err error) func(*Options) {
	return func(o *Options) { o.Host.(*fakeHost).setFail(err) }
}

func (f *fixture) expect(t *testing.T, after time.Duration, want ...string) {
	t.Helper()
	time.Sleep(after)
	synctest.Wait()
	if diff := cmp.Diff(want, f.plane.take()); diff != "" {
		t.Errorf("calls of the data plane (-want +got):\n%s", diff)
	}
}
