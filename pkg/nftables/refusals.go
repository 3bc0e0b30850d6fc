// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package nftables

import (
	"context"

	"github.com/smartnat/smartnat/pkg/nftables/rules"
	"github.com/smartnat/smartnat/pkg/traffic"
)

// Refusals returns the kernel's counters of refused packets. whole is not set if some may be missing. The counter of a port goes
// when it has refused nothing for a day.
func (r *Ruleset) Refusals(context.Context) (refusals []traffic.Refusal, whole bool, err error) {
	whole = true
	for _, family := range r.opts.Families {
		for _, set := range rules.RefusedSets() {
			counts, complete, err := r.opts.Kernel.Counts(family, set.Name)
			if err != nil {
				return nil, false, err
			}
			whole = whole && complete
			for _, c := range counts {
				if protocol, destination, ok := rules.Destination(c.Key, family); ok {
					refusals = append(refusals, traffic.Refusal{Reason: set.Reason, Protocol: protocol, Destination: destination, Packets: c.Packets})
				}
			}
		}
	}
	return refusals, whole, nil
}
