// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/smartnat/smartnat/pkg/controller"
	"github.com/smartnat/smartnat/pkg/dataplane"
	"github.com/smartnat/smartnat/pkg/finding"
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/source"
)

// fromDisk is a source that has not been read since the start.
type fromDisk struct{ *fakeSource }

func (fromDisk) HasSynced() bool             { return true }
func (fromDisk) Restored() (time.Time, bool) { return time.Unix(1600000000, 0), true }

func objectsOf(s source.Source) *objectSource { return &objectSource{Source: s} }

func TestTheStatusLine(t *testing.T) {
	now := time.Date(2026, 11, 25, 10, 0, 0, 0, time.UTC)
	one := &finding.Report{State: gateway.State{Forwards: []*gateway.Forward{{Owner: "a/web"}, {Owner: "a/web"}}}}
	two := &finding.Report{State: gateway.State{Forwards: []*gateway.Forward{{Owner: "a/web"}, {Owner: "a/dns"}}}}
	refused := &finding.Report{State: two.State, Findings: []finding.Finding{
		{Namespace: "a", Name: "dns", Reason: finding.ReasonServiceNotFound}, {Namespace: "a", Name: "dns", Reason: finding.ReasonNoSources},
		{Namespace: "a", Name: "elsewhere", Reason: finding.ReasonServiceNotFound}, {Namespace: "a", Name: "web", Reason: finding.ReasonAddressNotOnHost},
		{Reason: finding.ReasonLinkDown},
	}}
	repaired := dataplane.Result{Changes: dataplane.Changes{Repaired: []dataplane.Repair{{Kind: dataplane.KindRoute, Missing: "a route"}, {Kind: dataplane.KindIPSet, Missing: "set x"}}}}
	locked := errors.New("locked")
	read, lost := &fakeSource{}, &fakeSource{}
	read.synced.Store(true)
	lost.synced.Store(true)
	lost.lost.Store(true)
	for _, test := range []struct {
		name     string
		source   source.Source
		outcomes []controller.Outcome // a minute apart
		want     string
	}{
		{"one Mapping", read, []controller.Outcome{{Report: one}}, "1 Mapping programmed; source connected"},
		{"the last counts", read, []controller.Outcome{{Report: one}, {Report: two}}, "2 Mappings programmed; source connected"},
		{"connections are refused", read, []controller.Outcome{{Report: refused}}, "2 Mappings programmed, 1 of them not ready; source connected"},
		{"connections are forwarded again", read, []controller.Outcome{{Report: refused}, {Report: two}}, "2 Mappings programmed; source connected"},
		{
			"the host cannot be observed, programmed rules stay", read, []controller.Outcome{{Report: two}, {Err: locked}},
			"degraded: 2 Mappings programmed; source connected; apply failing since 2026-11-25T10:01:00Z: locked",
		},
		{
			"since the first failure", read, []controller.Outcome{{Report: two, Err: locked}, {Report: two, Err: locked}},
			"degraded: 2 Mappings programmed; source connected; apply failing since 2026-11-25T10:00:00Z: locked",
		},
		{"a failure that is over", read, []controller.Outcome{{Report: two, Err: locked}, {Report: two}}, "2 Mappings programmed; source connected"},
		{
			"a repair", read, []controller.Outcome{{Report: two, Result: repaired}, {Report: two}},
			"2 Mappings programmed; source connected; last repair at 2026-11-25T10:00:00Z: set x",
		},
		{"lost", lost, []controller.Outcome{{Report: one}}, "degraded: 1 Mapping programmed; source lost since 2023-11-14T22:13:20Z: refused"},
		{
			"from the disk", fromDisk{lost}, []controller.Outcome{{Report: one}}, "degraded: 1 Mapping programmed from objects saved at 2020-09-13T12:26:40Z; " +
				"the source has not been read since the start; source lost since 2023-11-14T22:13:20Z: refused",
		},
		{
			"from the disk, and nothing has failed yet", fromDisk{read}, []controller.Outcome{{Report: one}},
			"degraded: 1 Mapping programmed from objects saved at 2020-09-13T12:26:40Z; the source has not been read since the start",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			var tracker statusTracker
			for i, o := range test.outcomes {
				tracker.applied(o, now.Add(time.Duration(i)*time.Minute))
			}
			if diff := cmp.Diff(test.want, tracker.line(objectsOf(test.source), true, true)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestProbes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startWorld(t, 0, false)
		w.settle()
		check := func(when string, alive, ready bool) {
			t.Helper()
			if err := w.Alive(); (err == nil) != alive {
				t.Errorf("%s: alive: %v", when, err)
			}
			if err := w.Ready(); (err == nil) != ready {
				t.Errorf("%s: ready: %v", when, err)
			}
		}
		time.Sleep(24 * time.Hour)
		check("waiting for objects", true, false)
		w.sources["a"].synced.Store(true)
		w.runners[0].Enqueue()
		synctest.Wait()
		check("in effect", true, true)
		time.Sleep(maxItemDuration + time.Second)
		check("the worker hangs", false, true)
		w.runners[0].ItemProcessed()
		check("it turns again", true, true)
		w.file.Masquerade = false
		w.hup()
		synctest.Wait()
		check("another config", true, true)
		w.end(t)
	})
}

// TestStatus checks the state of the running generation.
func TestStatus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startWorld(t, 0, true)
		w.settle()
		w.sources["a"].lost.Store(true)
		want := Status{
			Ready: true, Missing: []string{"source lost since 2023-11-14T22:13:20Z: refused"}, ItemProcessed: time.Now(), Synced: true,
			Contact: source.Contact{Lost: true, Since: time.Unix(1700000000, 0), Why: "refused"},
		}
		if diff := cmp.Diff(want, w.Status()); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		w.end(t)
	})
	if diff := cmp.Diff(Status{}, new(Daemon).Status()); diff != "" {
		t.Errorf("before anything runs (-want +got):\n%s", diff)
	}
}

// TestLastChanges expects the time of the last apply that changed what the kernel holds for a Mapping.
func TestLastChanges(t *testing.T) {
	at := func(minute int) time.Time { return time.Date(2026, 11, 25, 10, minute, 0, 0, time.UTC) }
	forward := func(owner string, port uint16, backends ...gateway.Backend) *gateway.Forward {
		f := &gateway.Forward{Owner: owner, Backends: backends}
		f.Ports = gateway.Port(port)
		return f
	}
	web, dns, pod := forward("a/web", 80), forward("a/dns", 53), gateway.Backend{Port: 8080}
	locked := errors.New("locked")
	partly := dataplane.Result{Changes: dataplane.Changes{InPlace: true}}
	var tracker statusTracker
	for minute, step := range []struct {
		name     string
		forwards []*gateway.Forward
		result   dataplane.Result
		err      error
		want     map[string]time.Time
	}{
		{"the start", []*gateway.Forward{dns, web}, partly, nil, map[string]time.Time{}},
		{"nothing changes", []*gateway.Forward{dns, web}, partly, nil, map[string]time.Time{}},
		{"equal values", []*gateway.Forward{dns, forward("a/web", 80)}, partly, nil, map[string]time.Time{}},
		{"an endpoint", []*gateway.Forward{dns, forward("a/web", 80, pod)}, partly, nil, map[string]time.Time{"a/web": at(3)}},
		{"a write that fails", []*gateway.Forward{forward("a/dns", 53, pod), forward("a/web", 80, pod)}, dataplane.Result{}, locked, map[string]time.Time{"a/web": at(3)}},
		{"rules that are in place without a route", []*gateway.Forward{forward("a/dns", 53, pod), forward("a/web", 80, pod)}, partly, locked,
			map[string]time.Time{"a/web": at(3), "a/dns": at(5)}},
		{"one goes, one comes", []*gateway.Forward{forward("a/dns", 53, pod), forward("b/new", 81)}, partly, nil,
			map[string]time.Time{"a/web": at(6), "a/dns": at(5), "b/new": at(6)}},
	} {
		tracker.applied(controller.Outcome{Report: &finding.Report{State: gateway.State{Forwards: step.forwards}}, Result: step.result, Err: step.err}, at(minute))
		if diff := cmp.Diff(step.want, tracker.lastChanges()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", step.name, diff)
		}
	}
	for i := range 3 * maxGone {
		tracker.applied(controller.Outcome{Report: &finding.Report{State: gateway.State{Forwards: []*gateway.Forward{forward(fmt.Sprint("c/", i), 1)}}}}, at(9))
	}
	if n := len(tracker.lastChanges()); n > maxGone+1 {
		t.Errorf("%d Mappings are remembered", n)
	}
}
