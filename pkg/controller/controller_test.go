// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"

	"github.com/smartnat/smartnat/pkg/finding"
)

func TestNothingButTheBoundaryIsWrittenBeforeTheSourceHasSynced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := start(t, false)
		f.Enqueue()
		f.expect(t, f.Config.Resync-time.Second, "guard")
		if n := f.readys.Load(); n != 0 {
			t.Error("ready before anything was applied")
		}
		f.source.synced.Store(true)
		f.Enqueue()
		f.expect(t, 2*time.Second, "host changed", "apply")
		if n := f.readys.Load(); n != 1 {
			t.Errorf("ready %d times, want once", n)
		}
	})
}

// TestTheBoundaryWaitsForNothing expects retries until the boundary is up, and a repeat at each resync until there are
// objects.
func TestTheBoundaryWaitsForNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := start(t, false)
		f.expect(t, time.Second, "guard")
		f.plane.setFail(errors.New("injected"))
		f.expect(t, f.Config.Resync-time.Second+minBackoff/2, "guard")
		f.plane.setFail(nil)
		f.expect(t, minBackoff, "guard")
		f.expect(t, f.Config.Resync+time.Second, "guard")
	})
}

func TestABurstIsCoalesced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := start(t, true)
		f.expect(t, 2*time.Second, "host changed", "apply")
		f.Enqueue()
		time.Sleep(500 * time.Millisecond) // the worker is in the middle of an apply
		for range 1000 {
			f.Enqueue()
		}
		f.expect(t, 5*time.Second, "apply", "apply")
	})
}

// TestABurstIsNeverMoreThanOneBatchBehind expects that a change waits at most for the running apply and the next one.
func TestABurstIsNeverMoreThanOneBatchBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const changes, between = 10_000, 6 * time.Millisecond // a minute
		f := start(t, true)
		f.expect(t, 2*time.Second, "host changed", "apply")
		madeAt := make([]time.Time, changes+1)
		inEffect, applies, longest := int64(0), 0, time.Duration(0)
		f.plane.mu.Lock()
		f.plane.applied = func() {
			applies++
			for ; inEffect < f.source.seen.Load(); inEffect++ {
				longest = max(longest, time.Since(madeAt[inEffect+1]))
			}
		}
		f.plane.mu.Unlock()
		for i := 1; i <= changes; i++ {
			madeAt[i] = time.Now()
			f.source.version.Store(int64(i))
			f.Enqueue()
			time.Sleep(between)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		f.plane.mu.Lock()
		defer f.plane.mu.Unlock()
		// An apply takes a second.
		if inEffect != changes || longest > 2*time.Second || applies < 60 || applies > 63 {
			t.Errorf("%d changes in effect after %d applies, one waited %v", inEffect, applies, longest)
		}
	})
}

func TestAChangeAfterQuietIsAppliedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := start(t, true)
		f.expect(t, 20*time.Second, "host changed", "apply")
		f.Enqueue()
		f.expect(t, time.Second, "apply")
	})
}

func TestResyncReadsTheKernel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := start(t, true)
		f.expect(t, 2*time.Second, "host changed", "apply")
		f.expect(t, 35*time.Second, "host changed", "verify", "apply")
	})
}

func TestFailuresBackOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := start(t, true)
		f.plane.setFail(errors.New("injected"))
		// An apply takes 1 s, then the backoff is 0.5 s, 1 s, 2 s: applies end at 1 s, 2.5 s, 4.5 s, 7.5 s. Checks do not
		// shorten it.
		f.expect(t, 6*time.Second, "host changed", "apply", "host changed", "apply", "host changed", "apply")
		if n := f.readys.Load(); n != 0 {
			t.Error("ready although no apply succeeded")
		}
		f.expect(t, 2*time.Second, "host changed", "apply")
		f.expect(t, 3*time.Second)
		f.plane.setFail(nil)
		f.expect(t, 2*time.Second, "host changed", "apply")
		if n := f.readys.Load(); n != 1 {
			t.Errorf("ready %d times, want once", n)
		}
		f.expect(t, 15*time.Second)
	})
}

// TestRulesThatAreWrittenAreLookedAtAtOnce expects a repair right after an event of the watch, also after the watch failed.
// The failure is logged once.
func TestRulesThatAreWrittenAreLookedAtAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := start(t, true)
		f.expect(t, 2*time.Second, "host changed", "apply")
		for range 2 {
			time.Sleep(2 * rewatchInterval)
			f.plane.mu.Lock()
			f.plane.harmed = true
			f.plane.mu.Unlock()
			f.plane.written <- struct{}{}
			f.expect(t, time.Second, "apply")
		}
		said := 0
		for _, line := range f.log.AllEntries() {
			if line.Level == logrus.WarnLevel {
				said++
			}
		}
		if said != 1 {
			t.Errorf("%d warnings, want 1", said)
		}
	})
}

// TestARepairDoesNotWaitForARetry expects that the backoff of a failed apply does not delay a repair.
func TestARepairDoesNotWaitForARetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := start(t, true)
		f.plane.setFail(errors.New("injected"))
		f.expect(t, 13*time.Second, slices.Repeat([]string{"host changed", "apply"}, 5)...) // the next retry comes at 20.5 s
		f.plane.mu.Lock()
		f.plane.harmed = true
		f.plane.mu.Unlock()
		f.expect(t, checkInterval+checkInterval/10+time.Second, "host changed", "apply")
	})
}

// TestNothingIsAppliedForAHostThatNobodySaw expects that the reasons of a failed apply carry over to the next one, which
// another event may cause.
func TestNothingIsAppliedForAHostThatNobodySaw(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := start(t, true, hostFails(errors.New("injected")))
		f.expect(t, 3*time.Second) // the first Observe failed
		f.Enqueue()
		f.expect(t, time.Second)
		f.host.setFail(nil)
		f.Enqueue()
		f.expect(t, 2*time.Second, "host changed", "apply")
	})
}

func TestTheHostIsObservedWhenItChanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := start(t, true)
		f.expect(t, 2*time.Second, "host changed", "apply")
		before := f.host.observed()
		f.Enqueue()
		f.expect(t, 2*time.Second, "apply")
		if n := f.host.observed() - before; n != 0 {
			t.Errorf("observed %d times because objects changed", n)
		}
		f.host.changed <- struct{}{}
		f.expect(t, 2*time.Second, "host changed", "apply")
		if n := f.host.observed() - before; n != 1 {
			t.Errorf("observed %d times because the host changed once", n)
		}
	})
}

func TestChecksApplyOnlyWhatTheyFind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := start(t, true)
		f.expect(t, 2*time.Second, "host changed", "apply")
		f.expect(t, 20*time.Second)
		f.plane.mu.Lock()
		checks := f.plane.checks
		f.plane.harmed = true
		f.plane.mu.Unlock()
		if checks < 6 || checks > 7 { // 22 s at one per 3 s with 10% jitter
			t.Errorf("%d checks in 22 s", checks)
		}
		f.expect(t, checkInterval+checkInterval/10+time.Second, "apply")
	})
}

// TestTheStagesOfAnApplyAreLogged guards the fields of the log line that a benchmark parses.
func TestTheStagesOfAnApplyAreLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := start(t, true)
		f.expect(t, 2*time.Second, "host changed", "apply")
		f.Enqueue()
		time.Sleep(250 * time.Millisecond) // the worker is in the middle of an apply
		event := time.Now()
		f.Enqueue()
		f.expect(t, 3*time.Second, "apply", "apply")
		line := f.log.LastEntry()
		want := logrus.Fields{
			"event": event.UTC().Format(time.RFC3339Nano), "reason": "objects", "waited": 750.0, "observe": 0.0, "calc": 0.0,
			"build": 1.25, "diff": 2.5, "restore": 3.001, "cut": 4.0, "total": 1000.0,
		}
		if line.Message != "applied" || line.Level != logrus.DebugLevel {
			t.Errorf("the last line is %q at level %s", line.Message, line.Level)
		}
		if diff := cmp.Diff(want, line.Data); diff != "" {
			t.Errorf("fields (-want +got):\n%s", diff)
		}
	})
}

func TestEachFindingIsToldOnceAndTakenBackOnce(t *testing.T) {
	log, hook := logtest.NewNullLogger()
	l := findingLog{log: log}
	missing := finding.Finding{Namespace: "default", Name: "echo", Reason: "ServiceNotFound", Field: "spec.serviceName", Message: "no such Service"}
	var told []int
	for _, findings := range [][]finding.Finding{{missing}, {missing}, {}, {}} {
		hook.Reset()
		l.report(findings)
		told = append(told, len(hook.AllEntries()))
	}
	if diff := cmp.Diff([]int{1, 0, 1, 0}, told); diff != "" {
		t.Errorf("log lines per report (-want +got):\n%s", diff)
	}
}

// TestAnotherGatewaysAddressIsNoWarning: if several gateways serve a Mapping, none has all of its addresses.
func TestAnotherGatewaysAddressIsNoWarning(t *testing.T) {
	log, hook := logtest.NewNullLogger()
	l := findingLog{log: log}
	l.report([]finding.Finding{{Namespace: "default", Name: "echo", Reason: finding.ReasonAddressNotOnHost, Field: "spec.addresses[1]"}})
	l.report(nil)
	if lines := hook.AllEntries(); len(lines) != 0 {
		t.Errorf("%q is logged above debug level", lines[0].Message)
	}
}

// TestReadyDespiteWhatIsNoRule: a route that keeps failing is logged and retried but does not delay Ready, because every rule
// is in effect. Missing rules do delay it.
func TestReadyDespiteWhatIsNoRule(t *testing.T) {
	for _, test := range []struct {
		name    string
		inPlace bool
		want    int32
	}{{"a route fails", true, 1}, {"rules fail", false, 0}} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := start(t, true, func(o *Options) {
					plane := o.Dataplane.(*fakeDataplane)
					plane.setInPlace(test.inPlace)
					plane.setFail(errors.New("injected"))
				})
				time.Sleep(time.Minute)
				synctest.Wait()
				if got := f.readys.Load(); got != test.want {
					t.Errorf("ready %d times, want %d", got, test.want)
				}
			})
		})
	}
}
