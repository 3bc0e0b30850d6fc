// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package calc

import (
	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/gateway"
)

// Calculator computes what Calculate does, again and again as objects change, and at the cost of what changed. An object that
// changed is another one by its address; those that a Snapshot holds must not be changed. It is not safe for several
// goroutines.
type Calculator struct {
	cfg config.Config
}

// NewCalculator returns a Calculator that has seen nothing yet.
func NewCalculator(cfg config.Config) *Calculator { return &Calculator{cfg: cfg} }

// Calculate returns what the function Calculate would. The State shares what did not change with earlier ones, and must not
// be changed.
func (c *Calculator) Calculate(snapshot Snapshot, host gateway.Host) (gateway.State, []Finding) {
	return Calculate(snapshot, host, c.cfg)
}
