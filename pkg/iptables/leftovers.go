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

// UnusedTables reads and writes the tables of a variant of iptables that is not in use.
type UnusedTables interface {
	// Families returns the families whose tables may hold rules.
	Families() ([]gateway.Family, error)
	Save(ctx context.Context, family gateway.Family) (ruleset.Ruleset, error)
	Restore(ctx context.Context, batch ruleset.Batch) error
}

// Leftovers implements dataplane.Leftovers: our rules in the tables of an unused variant. They remain when the host changes
// its iptables programs or its data plane, or when a program restores them.
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
		return fmt.Errorf("reading the IPv%d tables of an unused iptables variant: %w", family, err)
	}
	batch := ruleset.Diff(have, ruleset.Ruleset{Family: family}, l.own.ChainPrefix)
	if batch.Empty() {
		return nil
	}
	if err := l.tables.Restore(ctx, batch); err != nil {
		return fmt.Errorf("removing rules from the IPv%d tables of an unused iptables variant: %w", family, err)
	}
	count(changes, batch)
	changes.Damaged = true // The removed rules may have let in connections that must end.
	return nil
}

// AllLeftovers implements dataplane.Leftovers for a host that uses another data plane: our rules in the tables of all variants,
// and our sets.
type AllLeftovers struct {
	own    gateway.Ownership
	tables []UnusedTables
	sets   func() (Sets, error)
}

// NewAllLeftovers returns the Leftovers in these tables. It calls sets, which returns nil if the host has none, only after it
// found a program that can read tables: without one, there may be rules that still name a set.
func NewAllLeftovers(tables []UnusedTables, sets func() (Sets, error), own gateway.Ownership) AllLeftovers {
	return AllLeftovers{own, tables, sets}
}

// Remove implements dataplane.Leftovers.
func (l AllLeftovers) Remove(ctx context.Context) (dataplane.Changes, error) {
	var changes dataplane.Changes
	var errs []error
	found := false
	for _, tables := range l.tables {
		families, err := tables.Families()
		errs = append(errs, err)
		for _, family := range families {
			found = true
			errs = append(errs, Leftovers{tables, l.own}.removeFamily(ctx, family, &changes))
		}
	}
	if !found || errors.Join(errs...) != nil {
		return changes, errors.Join(errs...)
	}
	return changes, l.removeSets(&changes)
}

func (l AllLeftovers) removeSets(changes *dataplane.Changes) error {
	sets, err := l.sets()
	if err != nil || sets == nil {
		return err
	}
	ours, err := sets.Observe()
	if err != nil {
		return fmt.Errorf("reading the sets: %w", err)
	}
	var errs []error
	for _, set := range ours {
		if err := sets.Destroy(set.Name); err != nil {
			errs = append(errs, fmt.Errorf("removing the set %s: %w", set.Name, err))
			continue
		}
		changes.Sets++
	}
	return errors.Join(errs...)
}
