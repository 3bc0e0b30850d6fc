// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"fmt"
	"reflect"
	"time"

	"github.com/smartnat/smartnat/pkg/calc"
	"github.com/smartnat/smartnat/pkg/objects"
)

// waitForObjects blocks until the source has synced and reports whether it did before the queue shut down. It waits for the
// source's Enqueue instead of polling, which would delay each start by a poll interval. Meanwhile it keeps up the boundary,
// which needs no objects, and adapts it to changes of the host.
func (c *Controller) waitForObjects(ctx context.Context) bool {
	if c.source.HasSynced() {
		return true
	}
	c.enqueue(hostChanged)
	for !c.source.HasSynced() {
		key, shutdown := c.queue.Get()
		if shutdown {
			return false
		}
		if taken := c.pending.take(); taken.reasons&(hostChanged|retryDue|resyncDue) != 0 && !c.source.HasSynced() {
			c.guard(ctx, taken.reasons)
		}
		c.queue.Done(key)
	}
	if c.retry != nil {
		c.retry.Stop()
	}
	c.backoff.Forget(kernelKey)
	return true
}

// guard puts up the boundary and schedules the next attempt.
func (c *Controller) guard(ctx context.Context, reasons reason) {
	observed, err := c.Host.Observe()
	switch {
	case err != nil:
		err = fmt.Errorf("observing the host: %w", err)
	case calc.NeedsObjects(observed, c.Config): // the kernel keeps the boundary of an earlier process
	default:
		state, _ := calc.Calculate(objects.Snapshot{}, observed, c.Config)
		if reasons&(retryDue|resyncDue) == 0 && c.guarded != nil && reflect.DeepEqual(state, *c.guarded) {
			return
		}
		c.guarded = nil
		result, guardErr := c.Dataplane.Guard(ctx, state)
		if err = guardErr; !result.Empty() {
			c.Log.WithField("written", result.String()).Info("put up the boundary")
		}
		if err == nil {
			c.guarded = &state
		}
	}
	if c.retry != nil {
		c.retry.Stop()
	}
	delay := c.Config.Resync
	if err != nil && ctx.Err() == nil {
		c.Log.WithError(err).Error("failed to put up the boundary, will retry")
		delay = c.backoff.When(kernelKey)
	}
	c.retry = time.AfterFunc(delay, func() { c.enqueue(retryDue) })
}
