// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package packet

import "github.com/smartnat/smartnat/pkg/gateway"

// Difference is a rule, an element of a set, or another object that either the kernel or the desired rules lack.
type Difference struct {
	// Missing means that the kernel lacks it. Otherwise the kernel has it, and the desired rules do not.
	Missing bool
	// Place is where it belongs, such as a table and chain. Text spells it as the data plane does.
	Place, Text string
	// Owner is the Mapping that it belongs to, as namespace/name, if the rule says so.
	Owner string
	// Frontend is the one that it is about. Its Address is invalid if it is about none.
	Frontend gateway.Frontend
}

// maxDifferences bounds the Differences that are kept: another program may remove the rules of 100,000 ports.
const maxDifferences = 1000

// Differences counts all Differences and keeps the first ones.
type Differences struct {
	Total int
	First []Difference
}

// Add adds a Difference.
func (d *Differences) Add(one Difference) {
	if d.Total++; len(d.First) < maxDifferences {
		d.First = append(d.First, one)
	}
}
