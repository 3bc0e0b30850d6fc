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

	logtest "github.com/sirupsen/logrus/hooks/test"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/pkg/calc"
	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/status"
)

// mapped is a Source with a Mapping that is not valid.
type mapped struct{ fakeSource }

func (*mapped) Snapshot() calc.Snapshot {
	return calc.Snapshot{Mappings: []*v1alpha1.Mapping{{ObjectMeta: metav1.ObjectMeta{Name: "web"}}}}
}

// TestWhatCameOfAnApplyIsTold has all that belongs together in one report: the objects, what they lack, and what went wrong.
func TestWhatCameOfAnApplyIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var told []status.Facts
		log, _ := logtest.NewNullLogger()
		plane, failure := &fakeDataplane{}, errors.New("locked")
		plane.setFail(failure)
		c := New(Options{
			Config: config.Config{Resync: time.Hour}, Host: &fakeHost{}, Dataplane: plane, Log: log, Ready: func() {},
			Applied: func(f status.Facts) { mu.Lock(); defer mu.Unlock(); told = append(told, f) },
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
			{minBackoff + time.Second, nil, 2}, // tried again
			{time.Minute, nil, 2},              // looks at the kernel are no applies
		} {
			time.Sleep(want.after)
			synctest.Wait()
			plane.setFail(nil)
			mu.Lock()
			last := told[len(told)-1]
			if len(told) != want.times || !errors.Is(last.Err, want.err) || len(last.Snapshot.Mappings) != 1 || len(last.Findings) == 0 {
				t.Errorf("told %d times, the last one %+v; want %d times and %v", len(told), last, want.times, want.err)
			}
			mu.Unlock()
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
