// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"context"
	"errors"
	"fmt"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/iptables/ruleset"
)

// OtherIPTables reads and writes the tables of the iptables back end that is not in use.
type OtherIPTables interface {
	// Families returns the families whose tables may hold rules.
	Families() ([]gateway.Family, error)
	Save(ctx context.Context, family gateway.Family) (ruleset.Ruleset, error)
	Restore(ctx context.Context, batch ruleset.Batch) error
}

// sweep removes our rules from the tables of the other back end, once. Such rules remain when the host changes its back end, or
// when its programs restore them, and would still forward to backends that are gone. Our rules must already be in place,
// because sweep also removes a boundary.
func (d *Dataplane) sweep(ctx context.Context, result *Result) error {
	if d.opts.Other == nil || d.swept {
		return nil
	}
	families, err := d.opts.Other.Families()
	errs := []error{err}
	for _, family := range families {
		errs = append(errs, d.sweepFamily(ctx, family, result))
	}
	err = errors.Join(errs...)
	d.swept = err == nil
	return err
}

func (d *Dataplane) sweepFamily(ctx context.Context, family gateway.Family, result *Result) error {
	have, err := d.opts.Other.Save(ctx, family)
	if err != nil {
		return fmt.Errorf("reading the IPv%d tables of the other back end: %w", family, err)
	}
	batch := ruleset.Diff(have, ruleset.Ruleset{Family: family}, d.opts.Ownership.ChainPrefix)
	if batch.Empty() {
		return nil
	}
	if err := d.opts.Other.Restore(ctx, batch); err != nil {
		return fmt.Errorf("removing rules from the IPv%d tables of the other back end: %w", family, err)
	}
	result.Batches = append(result.Batches, batch)
	d.cut = nil // The removed rules may have let in connections that must end.
	return nil
}
