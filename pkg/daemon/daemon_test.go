// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	logtest "github.com/sirupsen/logrus/hooks/test"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/controller"
	"github.com/smartnat/smartnat/pkg/dataplane"
	"github.com/smartnat/smartnat/pkg/finding"
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/objects"
	"github.com/smartnat/smartnat/pkg/packet"
	"github.com/smartnat/smartnat/pkg/source"
	"github.com/smartnat/smartnat/pkg/systemd"
)

// fakeSource has one Service, named like the file in its config.
type fakeSource struct {
	name   string
	synced atomic.Bool
	lost   atomic.Bool
	note   func(string)
}

func (s *fakeSource) Run(ctx context.Context) error {
	s.note("source " + s.name + " starts")
	<-ctx.Done()
	s.note("source " + s.name + " ends")
	return nil
}
func (s *fakeSource) HasSynced() bool { return s.synced.Load() }
func (s *fakeSource) Contact() source.Contact {
	return source.Contact{Lost: s.lost.Load(), Since: time.Unix(1700000000, 0), Why: "refused"}
}
func (s *fakeSource) Snapshot() objects.Snapshot {
	return objects.Snapshot{Services: []*corev1.Service{{ObjectMeta: metav1.ObjectMeta{Name: s.name}}}}
}

// fakeRunner becomes ready once its objects have synced, unless it fails. It turns on demand.
type fakeRunner struct {
	name string
	Hooks
	note   func(string)
	fail   error
	events chan struct{}
}

func (r *fakeRunner) Enqueue()    { r.events <- struct{}{} }
func (r *fakeRunner) Queued() int { return len(r.events) }
func (r *fakeRunner) Plan(context.Context, gateway.State) (dataplane.Plan, error) {
	return dataplane.Plan{}, nil
}

func (r *fakeRunner) Tracer(context.Context, gateway.Family) (packet.Tracer, error) { return nil, nil }

func (r *fakeRunner) Run(ctx context.Context, objects controller.Source) error {
	r.note("runner " + r.name + " starts")
	defer r.note("runner " + r.name + " ends")
	if r.fail != nil {
		return r.fail
	}
	ready := sync.OnceFunc(r.Ready)
	for {
		if objects.HasSynced() {
			r.note("runner " + r.name + " sees " + objects.Snapshot().Services[0].Name)
			ready()
			r.ItemProcessed()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-r.events:
		}
	}
}

// inEffect is the systemd status of a daemon without Mappings.
const inEffect = "STATUS=0 Mappings programmed; source connected"

// world is a daemon with fake surroundings; it notes events in order.
type world struct {
	*Daemon
	mu      sync.Mutex
	notes   []string
	hangups chan os.Signal
	file    config.Config
	broken  error
	sources map[string]*fakeSource
	runners []*fakeRunner
	log     *logtest.Hook
	served  []string
	ended   chan error
	stop    func()
}

func (w *world) note(what string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.notes = append(w.notes, what)
}

func startWorld(t *testing.T, watchdog time.Duration, synced bool) *world {
	t.Helper()
	return startWorldWith(t, watchdog, synced, func(*config.Config) {})
}

func startWorldWith(t *testing.T, watchdog time.Duration, synced bool, change func(*config.Config)) *world {
	t.Helper()
	log, hook := logtest.NewNullLogger()
	w := &world{hangups: make(chan os.Signal, 1), sources: map[string]*fakeSource{}, log: hook, ended: make(chan error, 1)}
	w.file = config.Default()
	w.file.Source.Files = &config.Files{Paths: []string{"a"}}
	change(&w.file)
	w.Daemon = New(Options{
		Log: log, Reload: w.hangups, Systemd: systemd.New(func(s string) { w.note(strings.SplitN(s, "\n", 2)[0]) }, watchdog),
		Load:   func() (config.Config, error) { return w.file, w.broken },
		Listen: func(address string) { w.mu.Lock(); defer w.mu.Unlock(); w.served = append(w.served, address) },
		NewSource: func(cfg config.Config, _ bool, _ func()) (source.Source, error) {
			s := &fakeSource{name: cfg.Source.Files.Paths[0], note: w.note}
			s.synced.Store(synced)
			w.sources[s.name] = s
			return s, nil
		},
		NewRunner: func(cfg config.Config, h Hooks) (Runner, error) {
			if cfg.ClampMSS {
				return nil, errors.New("iptables is missing")
			}
			r := &fakeRunner{name: fmt.Sprint(len(w.runners) + 1), Hooks: h, note: w.note, events: make(chan struct{}, 1)}
			w.runners = append(w.runners, r)
			return r, nil
		},
		NewReporters:   func(config.Config) ([]Reporter, error) { return nil, nil },
		CredentialEnds: func(config.Source) time.Time { return time.Time{} },
	})
	ctx, cancel := context.WithCancel(t.Context())
	w.stop = cancel
	go func() { w.ended <- w.Run(ctx, w.file) }()
	t.Cleanup(cancel)
	return w
}

// expect compares and clears the notes since the last call.
func (w *world) expect(t *testing.T, what string, want ...string) {
	t.Helper()
	w.expectBy(t, what, want)
}

// expectBy is expect with options for notes without a fixed order.
func (w *world) expectBy(t *testing.T, what string, want []string, options ...cmp.Option) {
	t.Helper()
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	if diff := cmp.Diff(want, w.notes, options...); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
	w.notes = nil
}

// settle clears the notes.
func (w *world) settle() {
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.notes = nil
}

// end stops the daemon and expects success.
func (w *world) end(t *testing.T) {
	t.Helper()
	w.stop()
	if err := <-w.ended; err != nil {
		t.Errorf("ended with %v", err)
	}
}

func (w *world) hup() { w.hangups <- syscall.SIGHUP }

func TestANewConfigTakesOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startWorld(t, 0, true)
		w.settle()
		w.file.Masquerade = false
		w.hup()
		w.expect(t, "same objects, new runner", "RELOADING=1", "runner 1 ends", "runner 2 starts", "runner 2 sees a", "READY=1")
		w.end(t)
		w.expect(t, "the end", "STOPPING=1", "runner 2 ends", "source a ends")
	})
}

// TestOtherObjectsTakeOverWhenTheyAreThere checks that the known objects stay until the new source has synced.
func TestOtherObjectsTakeOverWhenTheyAreThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startWorld(t, 0, false)
		w.expectBy(t, "nothing is there yet", []string{"STATUS=starting: waiting for the first complete list of objects", "source a starts", "runner 1 starts"},
			cmpopts.SortSlices(strings.Compare))
		w.sources["a"].synced.Store(true)
		w.runners[0].Enqueue()
		w.expect(t, "there", "runner 1 sees a", inEffect, "READY=1")

		w.file.Source.Files = &config.Files{Paths: []string{"b"}}
		w.hup()
		synctest.Wait()
		if got := w.daemonNotes("RELOADING=1", "runner 1 ends", "source a ends", "runner 2 starts", "runner 2 sees a",
			"STATUS=0 Mappings programmed", "READY=1", "source b starts"); got != "" {
			t.Error(got)
		}
		w.settle()
		w.sources["b"].synced.Store(true)
		w.runners[1].Enqueue()
		w.expect(t, "the new objects are there", "runner 2 sees b", inEffect)
		w.end(t)
		w.expect(t, "the end: what is known is kept until the last write", "STOPPING=1", "runner 2 ends", "source b ends")
	})
}

// daemonNotes returns what is missing or unexpected in any order, because goroutines start in any order.
func (w *world) daemonNotes(want ...string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	count := map[string]int{}
	for _, n := range want {
		count[n]++
	}
	for _, n := range w.notes {
		count[n]--
	}
	for n, c := range count {
		if c != 0 {
			return fmt.Sprintf("%q is noted %d times too few, in %q", n, c, w.notes)
		}
	}
	return ""
}

func TestABadConfigKeepsTheOldOneRunning(t *testing.T) {
	for _, test := range []struct {
		name  string
		spoil func(*world)
		want  string
	}{
		{"cannot be read", func(w *world) { w.broken = errors.New("line 1: wrong\nline 2: wrong") }, "line 1: wrong; line 2: wrong"},
		{"cannot be put into effect", func(w *world) { w.file.ClampMSS = true }, "iptables is missing"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := startWorld(t, 0, true)
				w.settle()
				good := w.file
				test.spoil(w)
				w.hup()
				w.expect(t, "the old one keeps running", "RELOADING=1", "STATUS=0 Mappings programmed; source connected (cannot apply the new config, the previous one stays in effect)", "READY=1")
				if e := w.log.LastEntry(); !strings.Contains(fmt.Sprint(e.Data["error"]), test.want) {
					t.Errorf("the log says %q %v, want %s", e.Message, e.Data, test.want)
				}
				w.file, w.broken = good, nil
				w.hup()
				w.expect(t, "right again", "RELOADING=1", inEffect, "READY=1")
				w.end(t)
			})
		})
	}
}

func TestNotReadyIsNotToldByAReload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startWorld(t, 0, false)
		w.settle()
		w.broken = errors.New("wrong")
		w.hup()
		w.expect(t, "a bad config", "STATUS=starting: waiting for the first complete list of objects (cannot apply the new config, the previous one stays in effect)")
		w.broken, w.file.Masquerade = nil, false
		w.hup()
		w.expect(t, "a good one", "STATUS=starting: waiting for the first complete list of objects", "runner 1 ends", "runner 2 starts")
		w.sources["a"].synced.Store(true)
		w.runners[1].Enqueue()
		w.expect(t, "in effect", "runner 2 sees a", inEffect, "READY=1")
		w.end(t)
	})
}

func TestWhatNamesOursStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startWorld(t, 0, true)
		w.settle()
		w.file.Ownership.ChainPrefix = "OTHER-"
		w.hup()
		w.expect(t, "nothing changes", "RELOADING=1", "READY=1")
		told := false
		for _, e := range w.log.AllEntries() {
			told = told || e.Data["keys"] == "ownership"
		}
		if !told {
			t.Error("no log line says that ownership stays")
		}
		w.end(t)
	})
}

// TestTheWatchdogHearsOfTheWorker checks that only the worker feeds the watchdog once it has objects: a hanging worker is
// silent.
func TestTheWatchdogHearsOfTheWorker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startWorldWith(t, time.Minute, false, func(cfg *config.Config) { cfg.StartTimeout = time.Hour })
		w.settle()
		time.Sleep(31 * time.Second)
		w.expect(t, "while it waits for objects", "WATCHDOG=1", "WATCHDOG=1")
		w.sources["a"].synced.Store(true)
		w.runners[0].Enqueue()
		w.expect(t, "the worker turns for the first time", "runner 1 sees a", inEffect, "READY=1")
		time.Sleep(time.Hour)
		w.expect(t, "it hangs")
		for range 10 {
			w.runners[0].ItemProcessed()
			time.Sleep(3 * time.Second)
		}
		w.expect(t, "it turns every three seconds, for thirty", "WATCHDOG=1", "WATCHDOG=1")
		w.end(t)
	})
}

// TestTheWatchdogHearsNothingOfAWorkerThatHangsAtOnce checks a worker that hangs in its first turn.
func TestTheWatchdogHearsNothingOfAWorkerThatHangsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startWorld(t, time.Minute, false)
		w.settle()
		w.sources["a"].synced.Store(true) // but the worker does not react
		time.Sleep(time.Hour)
		w.expect(t, "it hangs in its first turn", "STATUS=degraded: 0 Mappings programmed; source connected; the rules are not verified yet", "READY=1")
		w.end(t)
	})
}

// TestMetricsMoveWithTheConfig checks that a reload moves the listener of metrics, and the end closes it.
func TestMetricsMoveWithTheConfig(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startWorld(t, 0, true)
		w.settle()
		before := w.file.Metrics.Address
		w.file.Metrics.Address = "127.0.0.1:1"
		w.hup()
		w.settle()
		w.broken = errors.New("wrong")
		w.hup()
		w.settle()
		w.end(t)
		if diff := cmp.Diff([]string{before, "127.0.0.1:1", ""}, w.served); diff != "" {
			t.Errorf("served at (-want +got):\n%s", diff)
		}
	})
}

// TestABadConfigMovesNothing checks that a config that fails late in a reload neither moves the listener nor takes over.
func TestABadConfigMovesNothing(t *testing.T) {
	for _, test := range []struct {
		name  string
		spoil func(*world)
	}{
		{"the log", func(w *world) { w.file.Log.Level = "loud" }},
		{"the runner", func(w *world) { w.file.ClampMSS = true }},
		{"a reporter", func(w *world) {
			w.NewReporters = func(config.Config) ([]Reporter, error) { return nil, errors.New("no credentials") }
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := startWorld(t, 0, true)
				w.settle()
				before := w.file.Metrics.Address
				w.file.Metrics.Address = "127.0.0.1:1"
				test.spoil(w)
				w.hup()
				w.expect(t, "the old one keeps running", "RELOADING=1",
					"STATUS=0 Mappings programmed; source connected (cannot apply the new config, the previous one stays in effect)", "READY=1")
				w.end(t)
				if diff := cmp.Diff([]string{before, ""}, w.served); diff != "" {
					t.Errorf("served at (-want +got):\n%s", diff)
				}
			})
		})
	}
}

// fakeReporter notes how many Forwards are reported.
type fakeReporter struct {
	name string
	note func(string)
}

func (r *fakeReporter) Report(f finding.Report) {
	r.note(fmt.Sprintf("%s gets %d", r.name, len(f.State.Forwards)))
}

func (r *fakeReporter) Run(ctx context.Context) {
	<-ctx.Done()
	r.note(r.name + " ends")
}

// TestReportsReachTheReporters checks that a Reporter belongs to a generation, and that the daemon knows the last Report of the
// running one.
func TestReportsReachTheReporters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startWorld(t, 0, true)
		w.settle()
		made := 0
		w.NewReporters = func(config.Config) ([]Reporter, error) {
			made++
			return []Reporter{&fakeReporter{fmt.Sprint("reporter ", made), w.note}}, nil
		}
		first := &finding.Report{State: gateway.State{Forwards: []*gateway.Forward{{Owner: "a/web"}}}}
		w.runners[0].Applied(controller.Outcome{Report: first})
		if got := w.Report(); got != first {
			t.Errorf("the report is %p, want the first, %p", got, first)
		}
		w.file.Masquerade = false
		w.hup()
		w.settle()
		if got := w.Report(); got != nil {
			t.Errorf("the report is %p before the new generation has reported, want none", got)
		}
		second := &finding.Report{}
		w.runners[1].Applied(controller.Outcome{Report: second})
		w.runners[1].Applied(controller.Outcome{Err: errors.New("no netlink")})
		if got := w.Report(); got != second {
			t.Errorf("the report is %p, want the second, %p", got, second)
		}
		w.expect(t, "reported", "reporter 1 gets 0")
		w.file.ClampMSS, w.file.Masquerade = false, true
		w.hup()
		synctest.Wait()
		if slices.Index(w.notes, "reporter 1 ends") > slices.Index(w.notes, "runner 3 starts") {
			t.Error("the next generation starts before the reporter has ended")
		}
		anyOrder := cmpopts.SortSlices(strings.Compare)
		w.expectBy(t, "the next generation", []string{"RELOADING=1", "runner 2 ends", "reporter 1 ends", "runner 3 starts", "runner 3 sees a",
			"STATUS=degraded: 0 Mappings programmed; source connected; apply failing since 2000-01-01T00:00:00Z: no netlink", "READY=1"}, anyOrder)
		w.end(t)
		w.expectBy(t, "the end", []string{"STOPPING=1", "runner 3 ends", "reporter 2 ends", "source a ends"}, anyOrder)
	})
}

// TestWhatIsWaitedForIsShown checks that the status says why the start takes so long.
func TestWhatIsWaitedForIsShown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startWorld(t, 0, false)
		w.settle()
		w.sources["a"].lost.Store(true)
		time.Sleep(time.Minute)
		w.expect(t, "out of reach", "STATUS=starting: "+waiting+"; source lost since 2023-11-14T22:13:20Z: refused",
			"STATUS=degraded: "+waiting+"; source lost since 2023-11-14T22:13:20Z: refused", "READY=1")
		w.end(t)
	})
}

// TestLostContactIsShown checks that the status shows a lost source from the next turn until contact is back.
func TestLostContactIsShown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startWorld(t, 0, true)
		w.settle()
		w.sources["a"].lost.Store(true)
		w.runners[0].ItemProcessed()
		w.runners[0].ItemProcessed()
		w.expect(t, "lost", "STATUS=degraded: 0 Mappings programmed; source lost since 2023-11-14T22:13:20Z: refused")
		w.sources["a"].lost.Store(false)
		w.runners[0].ItemProcessed()
		w.expect(t, "back", inEffect)
		w.end(t)
	})
}

// TestAStartEnds checks that a start, or a reload, ends degraded after startTimeout; each sends READY=1 once.
func TestAStartEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startWorld(t, 0, false)
		synctest.Wait()
		w.sources["a"].lost.Store(true)
		time.Sleep(w.file.StartTimeout - time.Second)
		w.settle()
		const lost = "source lost since 2023-11-14T22:13:20Z: refused"
		time.Sleep(time.Second)
		w.expect(t, "startTimeout is over", "STATUS=degraded: "+waiting+"; "+lost, "READY=1")
		if e := w.log.LastEntry(); e.Data["missing"] != waiting+"; "+lost {
			t.Errorf("the log says %q %v, want what is missing", e.Message, e.Data)
		}
		if err := w.Ready(); err == nil || !strings.HasSuffix(err.Error(), lost) {
			t.Errorf("/readyz says %v, want what is missing", err)
		}
		w.broken = errors.New("wrong")
		w.hup()
		w.expect(t, "a reload of a bad config ends at once", "RELOADING=1", "STATUS=degraded: "+waiting+"; "+lost+" (cannot apply the new config, the previous one stays in effect)", "READY=1")
		w.broken, w.file.Masquerade = nil, false
		w.hup()
		w.settle()
		time.Sleep(w.file.StartTimeout)
		w.expect(t, "the reload is over", "STATUS=degraded: "+waiting+"; "+lost, "READY=1")
		w.sources["a"].lost.Store(false)
		w.sources["a"].synced.Store(true)
		w.runners[1].Enqueue()
		w.expect(t, "in effect at last", "runner 2 sees a", inEffect)
		if err := w.Ready(); err != nil {
			t.Errorf("/readyz says %v", err)
		}
		w.end(t)
	})
}

// TestALongStartTimeoutAsksForTime checks that a startTimeout beyond the unit's own extends the timeout.
func TestALongStartTimeoutAsksForTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startWorldWith(t, 0, false, func(cfg *config.Config) { cfg.StartTimeout = 5 * time.Minute })
		synctest.Wait()
		if got := w.daemonNotes("EXTEND_TIMEOUT_USEC=360000000", "STATUS=starting: "+waiting, "source a starts", "runner 1 starts"); got != "" {
			t.Error(got)
		}
		w.end(t)
	})
}

func TestARunnerThatFailsEndsTheDaemon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startWorld(t, 0, true)
		w.settle()
		w.file.Masquerade = false
		made := w.NewRunner
		w.NewRunner = func(cfg config.Config, h Hooks) (Runner, error) {
			r, err := made(cfg, h)
			r.(*fakeRunner).fail = errors.New("no netlink")
			return r, err
		}
		w.hup()
		if err := <-w.ended; err == nil || err.Error() != "no netlink" {
			t.Errorf("ended with %v, want no netlink", err)
		}
		w.expect(t, "the order", "RELOADING=1", "runner 1 ends", "runner 2 starts", "runner 2 ends", "source a ends")
	})
}
