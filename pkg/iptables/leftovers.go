// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package iptables

import (
	"context"
	"errors"
	"fmt"

	"github.com/smartnat/smartnat/pkg/dataplane"
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/iptables/ruleset"
)

// UnusedTables reads and writes the tables of the variant of iptables that is not in use.
type UnusedTables interface {
	// Families returns the families whose tables may hold rules.
	Families() ([]gateway.Family, error)
	Save(ctx context.Context, family gateway.Family) (ruleset.Ruleset, error)
	Restore(ctx context.Context, batch ruleset.Batch) error
}

// Leftovers implements dataplane.Leftovers: our rules in the tables of the unused variant. They remain when the host changes
// its iptables programs, or when these restore them.
type Leftovers struct {
	tables UnusedTables
	own    gateway.Ownership
}

// NewLeftovers returns the Leftovers in these tables.
func NewLeftovers(tables UnusedTables, own gateway.Ownership) Leftovers {
	return Leftovers{tables, own}
}

// Remove implements dataplane.Leftovers.
func (l Leftovers) Remove(ctx context.Context) (dataplane.Changes, error) {
	var changes dataplane.Changes
	families, err := l.tables.Families()
	errs := []error{err}
	for _, family := range families {
		errs = append(errs, l.removeFamily(ctx, family, &changes))
	}
	return changes, errors.Join(errs...)
}

func (l Leftovers) removeFamily(ctx context.Context, family gateway.Family, changes *dataplane.Changes) error {
	have, err := l.tables.Save(ctx, family)
	if err != nil {
		return fmt.Errorf("reading the IPv%d tables of the unused iptables variant: %w", family, err)
	}
	batch := ruleset.Diff(have, ruleset.Ruleset{Family: family}, l.own.ChainPrefix)
	if batch.Empty() {
		return nil
	}
	if err := l.tables.Restore(ctx, batch); err != nil {
		return fmt.Errorf("removing rules from the IPv%d tables of the unused iptables variant: %w", family, err)
	}
	count(changes, batch)
	changes.Damaged = true // The removed rules may have let in connections that must end.
	return nil
}
