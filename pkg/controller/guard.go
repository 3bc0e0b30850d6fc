// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"fmt"
	"reflect"
	"time"

	"github.com/smartnat/smartnat/pkg/calc"
)

// waitForObjects returns when the Snapshot is whole, of which the source tells as of any change: to ask it now and then would
// make each start wait for the next time. The boundary, which needs no object, is put up meanwhile, and follows the host.
func (c *Controller) waitForObjects(ctx context.Context) bool {
	if c.source.HasSynced() {
		return true
	}
	c.enqueue(host)
	for !c.source.HasSynced() {
		key, shutdown := c.queue.Get()
		if shutdown {
			return false
		}
		if taken := c.pending.take(); taken.reasons&(host|retry|resync) != 0 && !c.source.HasSynced() {
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

// guard puts up the boundary, now or in a while.
func (c *Controller) guard(ctx context.Context, reasons reason) {
	observed, err := c.Host.Observe()
	if err != nil {
		err = fmt.Errorf("observing the host: %w", err)
	} else {
		state, _ := calc.Calculate(calc.Snapshot{}, observed, c.Config)
		if reasons&(retry|resync) == 0 && c.guarded != nil && reflect.DeepEqual(state, *c.guarded) {
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
	c.retry = time.AfterFunc(delay, func() { c.enqueue(retry) })
}
