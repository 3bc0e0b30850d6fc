// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	logtest "github.com/sirupsen/logrus/hooks/test"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/dataplane"
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/objects"
	"github.com/smartnat/smartnat/pkg/policyrouting"
)

// mapped is a Source with one invalid Mapping.
type mapped struct{ fakeSource }

func (*mapped) Snapshot() objects.Snapshot {
	return objects.Snapshot{Mappings: []*v1alpha1.Mapping{{ObjectMeta: metav1.ObjectMeta{Name: "web"}}}}
}

// TestWhatCameOfAnApplyIsTold checks that one Outcome carries the objects, their findings and the error.
func TestWhatCameOfAnApplyIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var told []Outcome
		log, _ := logtest.NewNullLogger()
		plane, failure := &fakeDataplane{}, errors.New("locked")
		plane.setFail(failure)
		c := New(Options{
			Config: config.Config{Resync: time.Hour}, Host: &fakeHost{}, Dataplane: plane, Log: log, Ready: func() {},
			Applied: func(o Outcome) { mu.Lock(); defer mu.Unlock(); told = append(told, o) },
		})
		source := &mapped{}
		source.synced.Store(true)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- c.Run(ctx, source) }()
		for _, want := range []struct {
			after time.Duration
			err   error
			times int
		}{
			{1100 * time.Millisecond, failure, 1},
			{minBackoff + time.Second, nil, 2}, // the retry
			{time.Minute, nil, 2},              // checks are not applies
		} {
			time.Sleep(want.after)
			synctest.Wait()
			plane.setFail(nil)
			mu.Lock()
			last := told[len(told)-1]
			if len(told) != want.times || !errors.Is(last.Err, want.err) || !errors.Is(last.Report.Err, want.err) ||
				len(last.Report.Snapshot.Mappings) != 1 || len(last.Report.Findings) == 0 || last.Took != time.Second {
				t.Errorf("%d outcomes, the last is %+v; want %d and error %v", len(told), last, want.times, want.err)
			}
			mu.Unlock()
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestAHostThatCannotBeSeenIsTold expects an Outcome without a Report, because nothing is known about the host.
func TestAHostThatCannotBeSeenIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told []Outcome
		unseen := errors.New("injected")
		start(t, true, hostFails(unseen), func(o *Options) { o.Applied = func(o Outcome) { told = append(told, o) } })
		time.Sleep(100 * time.Millisecond)
		synctest.Wait()
		if len(told) != 1 || told[0].Report != nil || !errors.Is(told[0].Err, unseen) {
			t.Errorf("outcomes %+v, want one without facts and with error %v", told, unseen)
		}
	})
}

// writing is a data plane whose applies return the given results in turn, and then empty ones.
type writing struct {
	fakeDataplane
	results []dataplane.Result
}

func (d *writing) Apply(ctx context.Context, state gateway.State) (dataplane.Result, error) {
	_, err := d.fakeDataplane.Apply(ctx, state)
	if len(d.results) == 0 {
		return dataplane.Result{}, err
	}
	result := d.results[0]
	d.results = d.results[1:]
	return result, err
}

// TestReadyIsWhatWasVerified expects Ready only after a resync has verified what was written.
func TestReadyIsWhatWasVerified(t *testing.T) {
	wrote := dataplane.Result{Routing: policyrouting.Changes{AddRules: make([]policyrouting.Rule, 1)}}
	undone := wrote
	undone.Repaired = []dataplane.Repair{{Kind: dataplane.KindIPRule}}
	first, verified := []string{"host changed", "apply"}, []string{"host changed", "verify", "apply"}
	for _, test := range []struct {
		name    string
		results []dataplane.Result
		// applies is the number of applies before Ready is called.
		applies int
	}{
		{"everything is in place, as after a restart", nil, 1},
		{"everything is written", []dataplane.Result{wrote}, 2},
		{"another process undoes it at once", []dataplane.Result{wrote, undone}, 3},
		{"the verifying apply writes more", []dataplane.Result{wrote, wrote}, 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				plane := &writing{results: test.results}
				f := start(t, true, func(o *Options) { o.Dataplane = plane })
				want := first
				for n := 1; n <= test.applies; n++ {
					if n > 1 {
						want = append(want, verified...)
					}
					if f.readys.Load() != 0 {
						t.Errorf("ready after %d applies, want %d", n-1, test.applies)
					}
					time.Sleep(time.Second)
					synctest.Wait()
				}
				if n := f.readys.Load(); n != 1 {
					t.Errorf("ready %d times after %d applies, want once", n, test.applies)
				}
				if diff := cmp.Diff(want, plane.take()); diff != "" {
					t.Errorf("calls of the data plane (-want +got):\n%s", diff)
				}
			})
		})
	}
}
