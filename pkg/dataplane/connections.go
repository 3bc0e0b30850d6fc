// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"context"
	"fmt"
	"time"

	"github.com/smartnat/smartnat/pkg/gateway"
)

// cutConnections ends the connections that the state no longer makes, whose next packets meet other rules. If the rules are not
// inPlace, the next Apply cuts again, because the old rules may bring back a connection that was ended.
func (d *Dataplane) cutConnections(ctx context.Context, state gateway.State, inPlace bool, result *Result) error {
	since := d.cut
	d.cut = nil
	started := time.Now()
	n, err := d.opts.Conntrack.Cut(ctx, since, state)
	result.Took.Cut += time.Since(started)
	result.Connections += n
	if err != nil {
		return fmt.Errorf("ending connections that are not wanted any more: %w", err)
	}
	if inPlace {
		d.cut = &state
	}
	return nil
}
