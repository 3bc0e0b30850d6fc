// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
)

// rewatchInterval keeps a watch that fails again and again from costing anything. The checks that come by the clock see
// the same, a little later.
const rewatchInterval = 5 * time.Second

// watchRules has a check made whenever rules were written, so that nobody waits for the next one by the clock.
func (c *Controller) watchRules(ctx context.Context) error {
	said := ""
	for {
		err := c.Dataplane.Watch(ctx, func() { c.enqueue(check) })
		if err != nil && err.Error() != said {
			said = err.Error()
			c.Log.WithError(err).Warn("the watch on who writes rules broke off; it is set up again, and looks go on")
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait.Jitter(rewatchInterval, resyncJitter)):
		}
	}
}
