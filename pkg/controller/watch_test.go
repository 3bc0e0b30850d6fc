// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"
)

func TestEachLossOfTheWatchIsLoggedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := start(t, true)
		for _, step := range []struct {
			after time.Duration
			want  int
		}{
			{time.Second, 1},
			{2 * rewatchInterval, 1}, // failed again at once
			{time.Minute, 2},         // failed after it had worked
		} {
			time.Sleep(step.after)
			f.plane.written <- struct{}{}
			synctest.Wait()
			logged := 0
			for _, entry := range f.log.AllEntries() {
				if entry.Level == logrus.WarnLevel && entry.Message == "lost watch on rule changes, will retry" {
					logged++
				}
			}
			if logged != step.want {
				t.Errorf("%s later: logged %d times, want %d", step.after, logged, step.want)
			}
		}
	})
}
