// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"context"
	"fmt"
	"time"

	"github.com/smartnat/smartnat/pkg/gateway"
)

// cutConnections ends what the state does not make any more, now that the next packet of it meets other rules. Only where
// the rules are inPlace that is done with: otherwise what was cut may have come back by the old ones.
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
