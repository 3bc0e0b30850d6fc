// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package host

import (
	"errors"
	"slices"
	"time"

	"github.com/smartnat/smartnat/pkg/budget"
	"github.com/smartnat/smartnat/pkg/gateway"
)

// chainShare lets the reading of base chains take at most half a percent of the time, chainInterval is the shortest time between two
// readings.
const (
	chainShare    = 200
	chainInterval = 2 * time.Second
)

// otherChains remembers the base chains of other programs. Those of nf_tables are read again after a change of any rule, also of ours, and
// those of legacy iptables, which count no changes, each time. So readings bounds the time for both.
type otherChains struct {
	// read and readLegacy may be nil.
	read, readLegacy func() (gateway.OtherChains, error)
	readings         budget.Budget
	// tables is the last result of nf_tables, in its generation, if known is set; legacy is that of legacy iptables.
	tables, legacy gateway.OtherChains
	generation     uint32
	known          bool
}

func (o *otherChains) merged() gateway.OtherChains {
	return gateway.OtherChains{Dropping: slices.Concat(o.tables.Dropping, o.legacy.Dropping), Queuing: slices.Concat(o.tables.Queuing, o.legacy.Queuing)}
}

// update reads what may have changed. It keeps the last result of what cannot be read, for example because its owner replaces it.
func (o *otherChains) update(generation uint32, now time.Time) error {
	if !o.readings.Allows(now) {
		return nil
	}
	var errs []error
	if o.read != nil && (!o.known || o.generation != generation) {
		found, err := o.read()
		if errs = append(errs, err); err == nil {
			o.tables, o.generation, o.known = found, generation, true
		}
	}
	if o.readLegacy != nil {
		found, err := o.readLegacy()
		if errs = append(errs, err); err == nil {
			o.legacy = found
		}
	}
	o.readings.Spend(now, max(time.Since(now), chainInterval/chainShare))
	return errors.Join(errs...)
}
