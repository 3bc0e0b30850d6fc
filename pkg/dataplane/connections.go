// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"context"
	"fmt"
	"slices"

	"github.com/smartnat/smartnat/pkg/gateway"
)

// cutConnections ends what the state does not make any more, now that the next packet of it meets other rules. Only where
// the rules are inPlace that is done with: otherwise what was cut may have come back by the old ones.
func (d *Dataplane) cutConnections(ctx context.Context, state gateway.State, inPlace bool, result *Result) error {
	if d.cut != nil && sameConnections(*d.cut, state) {
		return nil
	}
	d.cut = nil
	n, err := d.opts.Conntrack.Cut(ctx, state)
	result.Connections += n
	if err != nil {
		return fmt.Errorf("ending connections that are not wanted any more: %w", err)
	}
	if inPlace {
		d.cut = &gateway.State{Forwards: state.Forwards, Egresses: state.Egresses}
	}
	return nil
}

// sameConnections reports whether the states let the same connections be.
func sameConnections(a, b gateway.State) bool {
	return slices.EqualFunc(a.Forwards, b.Forwards, func(a, b gateway.Forward) bool {
		return a.Frontend == b.Frontend && a.Shift == b.Shift && a.SourcesDeny == b.SourcesDeny &&
			slices.Equal(a.Sources, b.Sources) && slices.Equal(a.Backends, b.Backends) && slices.Equal(a.Draining, b.Draining)
	}) && slices.EqualFunc(a.Egresses, b.Egresses, func(a, b gateway.Egress) bool {
		return a.Address == b.Address && slices.Equal(a.Sources, b.Sources)
	})
}
