// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/smartnat/smartnat/pkg/loglimit"
)

// rewatchInterval is the pause after a failed watch. It bounds the cost of a watch that fails repeatedly; periodic checks
// find the same modifications a little later.
const rewatchInterval = 5 * time.Second

// healthyWatch is how long a watch lasts that has worked: its loss is another outage and logged again.
const healthyWatch = 30 * time.Second

// watchRules enqueues a check after each write of rules, so that a repair does not wait for the next periodic check.
func (c *Controller) watchRules(ctx context.Context) error {
	var last loglimit.LastError
	for {
		started := time.Now()
		err := c.Dataplane.Watch(ctx, func() { c.enqueue(checkDue) })
		if time.Since(started) >= healthyWatch {
			last = loglimit.LastError{}
		}
		if last.Changed(err) {
			c.Log.WithError(err).Warn("lost watch on rule changes, will retry")
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait.Jitter(rewatchInterval, resyncJitter)):
		}
	}
}
