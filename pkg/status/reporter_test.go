// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package status

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sirupsen/logrus"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/smartnat/smartnat/pkg/finding"
	"github.com/smartnat/smartnat/pkg/gateway"
)

// api holds the written entries.
type api struct {
	mu      sync.Mutex
	entries map[key]Entry
	reads   int
	writes  []string
	fails   error
}

func (a *api) Read(context.Context) (map[types.NamespacedName]Entry, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.reads++
	return maps.Clone(a.entries), a.fails
}

func (a *api) Write(_ context.Context, mapping types.NamespacedName, e Entry) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.writes = append(a.writes, "write "+mapping.Name)
	if a.fails == nil {
		a.entries[mapping] = e
	}
	return a.fails
}

func (a *api) Remove(_ context.Context, mapping types.NamespacedName) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.writes = append(a.writes, "remove "+mapping.Name)
	delete(a.entries, mapping)
	return a.fails
}

// fail makes all requests fail with err, or succeed if it is nil.
func (a *api) fail(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.fails = err
}

// written returns the writes since the last call.
func (a *api) written() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	all := a.writes
	a.writes = nil
	slices.Sort(all)
	return all
}

// reporting runs a test with a Reporter in a synctest bubble.
func reporting(t *testing.T, test func(t *testing.T, r *Reporter, a *api, log *bytes.Buffer)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		log := logrus.New()
		log.SetOutput(&out)
		a := &api{entries: map[key]Entry{}}
		r := New(Options{Instance: "gw1", Writer: a, Log: log})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); r.Run(ctx) }()
		test(t, r, a, &out)
		cancel()
		<-done
	})
}

// after lets time pass and checks the writes in it.
func (a *api) after(t *testing.T, d time.Duration, want ...string) {
	t.Helper()
	time.Sleep(d)
	synctest.Wait()
	if diff := cmp.Diff(want, a.written()); diff != "" {
		t.Errorf("after %v (-want +got)\n%s", d, diff)
	}
}

// soon is enough time for an immediate write.
const soon = 2 * time.Second

var web = map[string][]string{"web": {"192.0.2.1"}}

func TestReporter(t *testing.T) {
	reporting(t, func(t *testing.T, r *Reporter, a *api, _ *bytes.Buffer) {
		a.entries[key{Namespace: "shop", Name: "moved"}] = Entry{UID: "uid-of-moved"}
		a.after(t, time.Hour) // nothing to report before the first apply
		if a.reads != 0 {
			t.Errorf("%d reads before there is anything to report", a.reads)
		}
		f := facts(web)
		r.Report(f)
		a.after(t, soon, "remove moved", "write web")
		if e := a.entries[key{Namespace: "shop", Name: "web"}]; !e.Programmed || e.UID != "uid-of-web" || e.ObservedGeneration != 3 {
			t.Errorf("written %+v", e)
		}
		r.Report(f)
		a.after(t, soon)

		again := facts(web)
		again.Snapshot.Mappings[0].Generation = 4
		r.Report(again)
		a.after(t, soon, "write web")

		fresh := facts(web)
		fresh.Snapshot.Mappings[0].Generation, fresh.Snapshot.Mappings[0].UID = 4, "another"
		r.Report(fresh)
		a.after(t, soon, "write web")

		r.Report(facts(nil))
		a.after(t, soon, "remove web")
		a.after(t, time.Hour) // nothing changed, so nothing is written
	})
}

func TestAGatewayIsHeardOf(t *testing.T) {
	reporting(t, func(t *testing.T, r *Reporter, a *api, _ *bytes.Buffer) {
		r.Report(facts(web))
		a.after(t, soon, "write web")
		a.after(t, 5*heartbeat, slices.Repeat([]string{"write web"}, 5)...)
		// Another writer removes the entry: the next read finds that at the latest.
		a.mu.Lock()
		delete(a.entries, key{Namespace: "shop", Name: "web"})
		a.mu.Unlock()
		time.Sleep(2 * refreshEvery)
		synctest.Wait()
		if len(a.entries) != 1 {
			t.Error("the removed entry did not come back")
		}
	})
}

// TestARestartWritesNothing checks that a restart only writes a heartbeat, because the entries that it reads are up to date.
func TestARestartWritesNothing(t *testing.T) {
	many := map[string][]string{}
	for i := range 1000 {
		many[fmt.Sprint("m", i)] = []string{"192.0.2.1"}
	}
	reporting(t, func(t *testing.T, r *Reporter, a *api, _ *bytes.Buffer) {
		a.entries = entries("gw1", nil, facts(many))
		r.Report(facts(many))
		time.Sleep(soon)
		synctest.Wait()
		if got := a.written(); len(got) != 1 || a.reads != 1 {
			t.Errorf("%d writes and %d reads, want one each", len(got), a.reads)
		}
	})
}

func TestManyAreWrittenSlowly(t *testing.T) {
	many := map[string][]string{}
	for i := range 500 {
		many[fmt.Sprint("m", i)] = []string{"192.0.2.1"}
	}
	reporting(t, func(t *testing.T, r *Reporter, a *api, _ *bytes.Buffer) {
		r.Report(facts(many))
		time.Sleep(5*time.Second + 10*time.Millisecond)
		synctest.Wait()
		if got, want := len(a.written()), writesAtOnce+5*writesPerSecond; got != want {
			t.Errorf("%d writes in 5 s, want %d", got, want)
		}
	})
}

// TestEndpointsThatComeAndGo checks that endpoints that change fifty times a second are written every ten seconds.
func TestEndpointsThatComeAndGo(t *testing.T) {
	reporting(t, func(t *testing.T, r *Reporter, a *api, _ *bytes.Buffer) {
		r.Report(facts(web))
		a.after(t, soon, "write web")
		for i := range 40 * 50 {
			f := facts(web)
			f.State.Forwards = []*gateway.Forward{{Owner: "shop/web", Direct: true, Backends: make([]gateway.Backend, 1+i)}}
			r.Report(f)
			time.Sleep(20 * time.Millisecond)
		}
		if got := len(a.written()); got < 2 || got > 4 {
			t.Errorf("%d writes in 40 s, want about one in ten", got)
		}
	})
}

func TestApplyThatFails(t *testing.T) {
	reporting(t, func(t *testing.T, r *Reporter, a *api, _ *bytes.Buffer) {
		r.Report(facts(web))
		a.after(t, soon, "write web")
		both := facts(map[string][]string{"web": {"192.0.2.1"}, "new": {"192.0.2.1"}})
		both.Err = errors.New("the lock is held")
		r.Report(both)
		a.after(t, soon, "write new") // the state in effect stays
		both.Snapshot.Mappings = slices.Clone(both.Snapshot.Mappings)
		for i, m := range both.Snapshot.Mappings {
			if m.Name == "web" {
				fresh := m.DeepCopy()
				fresh.UID = "another"
				both.Snapshot.Mappings[i] = fresh
			}
		}
		r.Report(both)
		a.after(t, soon, "write web") // a recreated Mapping is not in effect
		good := facts(web)
		good.Snapshot.Mappings[0].UID = "another"
		r.Report(good)
		a.after(t, soon, "remove new", "write web")
		r.Report(both)
		a.after(t, soon, "write new")
		time.Sleep(failureGrace)
		r.Report(both)
		a.after(t, soon, "write web") // after a long failure, the state is not trusted
		for name, e := range a.entries {
			if e.Programmed || !strings.Contains(strings.Join(e.Problems, ""), "the lock is held") {
				t.Errorf("%s: %+v", name, e)
			}
		}
		both.Err = nil
		r.Report(both)
		a.after(t, soon, "write new", "write web")
	})
}

func TestWhatCannotBeWrittenIsTriedAgain(t *testing.T) {
	reporting(t, func(t *testing.T, r *Reporter, a *api, log *bytes.Buffer) {
		r.Report(facts(web))
		a.after(t, soon, "write web")
		a.fail(errors.New("connection refused"))
		f := facts(web)
		f.Findings = []finding.Finding{{Namespace: "shop", Name: "web", Reason: finding.ReasonNoSources}}
		r.Report(f)
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if n := len(a.written()); n < 8 || n > 25 {
			t.Errorf("%d tries in ten minutes, want them to back off to one a minute", n)
		}
		a.fail(nil)
		time.Sleep(2 * maxBackoff)
		synctest.Wait()
		if e := a.entries[key{Namespace: "shop", Name: "web"}]; len(e.Problems) != 1 {
			t.Errorf("%+v, want the pending entry", e)
		}
		if n := strings.Count(log.String(), "cannot report"); n != 1 {
			t.Errorf("logged the failure %d times, want once:\n%s", n, log)
		}
		if !strings.Contains(log.String(), "is reported again") {
			t.Errorf("the recovery is not logged:\n%s", log)
		}
	})
}

func TestARelayThatTakesNothing(t *testing.T) {
	reporting(t, func(t *testing.T, r *Reporter, a *api, log *bytes.Buffer) {
		a.fail(apierrors.NewMethodNotSupported(schema.GroupResource{Resource: "mappings"}, "patch"))
		f := facts(web)
		for range 59 {
			r.Report(f)
			time.Sleep(time.Minute)
		}
		synctest.Wait()
		if got := a.reads; got != 6 {
			t.Errorf("asked %d times in 59 minutes, want 6", got)
		}
		a.fail(nil)
		time.Sleep(refreshEvery + time.Minute)
		synctest.Wait()
		if len(a.entries) != 1 {
			t.Error("no report after the server accepts the status")
		}
		if strings.Contains(log.String(), "level=warning") {
			t.Errorf("unexpected warning:\n%s", log)
		}
		// A missing permission is different: an administrator can fix it.
		a.fail(apierrors.NewForbidden(schema.GroupResource{Resource: "mappings"}, "web", errors.New("set instance: gw2")))
		r.Report(facts(nil))
		time.Sleep(2 * refreshEvery)
		synctest.Wait()
		if !strings.Contains(log.String(), "level=warning") || !strings.Contains(log.String(), "set instance: gw2") {
			t.Errorf("no warning with the remedy:\n%s", log)
		}
	})
}

func TestOneThatIsRefusedHoldsUpNoOther(t *testing.T) {
	reporting(t, func(t *testing.T, r *Reporter, a *api, _ *bytes.Buffer) {
		refuse := &refusing{api: a}
		r.Writer = refuse
		r.Report(facts(map[string][]string{"bad": {"192.0.2.1"}, "good": {"192.0.2.1"}}))
		a.after(t, soon, "write good")
		if refuse.tries != 1 {
			t.Errorf("the refused entry was written %d times, want once", refuse.tries)
		}
	})
}

// refusing rejects the Mapping bad.
type refusing struct {
	*api
	tries int
}

func (r *refusing) Write(ctx context.Context, mapping types.NamespacedName, e Entry) error {
	if mapping.Name == "bad" {
		r.tries++
		return fmt.Errorf("writing: %w", apierrors.NewBadRequest("no"))
	}
	return r.api.Write(ctx, mapping, e)
}
