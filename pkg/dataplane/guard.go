// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/iptables/rules"
)

// Guard writes the boundary that the state requires, in all families, and removes nothing: the kernel continues to forward for
// Mappings that are not known yet. It serves the time before the first Apply.
func (d *Dataplane) Guard(ctx context.Context, state gateway.State) (Result, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var result Result
	var errs []error
	for _, name := range d.opts.IPTables.Families() {
		err := d.family(name).unlessHung(ctx, func() error { return d.guardFamily(ctx, name, state, &result) })
		if err != nil && !d.harmless(name) {
			errs = append(errs, err)
		}
	}
	return result, errors.Join(errs...)
}

func (d *Dataplane) guardFamily(ctx context.Context, name gateway.Family, state gateway.State, result *Result) error {
	have, err := d.opts.IPTables.Save(ctx, name)
	result.Readings++
	if err != nil {
		return fmt.Errorf("reading the IPv%d tables: %w", name, err)
	}
	have.Family = name
	batch := rules.Guard(have, state, d.ruleOptions(false))
	if batch.Empty() {
		return nil
	}
	d.family(name).known = false
	if err := d.opts.IPTables.Restore(ctx, batch); err != nil {
		return fmt.Errorf("writing the IPv%d boundary: %w", name, err)
	}
	result.Batches = append(result.Batches, batch)
	return nil
}

// guardOnly reports whether the family gets only the boundary.
func (d *Dataplane) guardOnly(name gateway.Family) bool {
	return slices.Contains(d.opts.GuardOnly, name)
}

// harmless reports whether the host can do without the boundary of a family: the family is not served, and the host does not
// forward it.
func (d *Dataplane) harmless(name gateway.Family) bool {
	if !d.guardOnly(name) {
		return false
	}
	forwarding, err := d.opts.Sysctls.Get(map[gateway.Family]string{gateway.IPv4: ipForward, gateway.IPv6: ipv6Forward}[name])
	return err == nil && forwarding == "0"
}
