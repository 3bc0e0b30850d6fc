// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"context"
	"errors"
)

// LeftoversOf returns all rules of a Ruleset as Leftovers.
func LeftoversOf(of Ruleset) Leftovers { return leftoversOf{of} }

type leftoversOf struct{ ruleset Ruleset }

// Remove implements Leftovers.
func (l leftoversOf) Remove(ctx context.Context) (Changes, error) {
	var sum Changes
	var errs []error
	for _, family := range l.ruleset.Families() {
		changes, err := l.ruleset.Remove(ctx, family)
		sum = sum.append(changes)
		errs = append(errs, err)
	}
	sum.Damaged = sum.Damaged || !sum.Empty() // The removed rules may have let in connections that must end.
	return sum, errors.Join(errs...)
}
