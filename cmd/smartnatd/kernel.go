// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/dataplane"
	"github.com/smartnat/smartnat/pkg/ipset"
	"github.com/smartnat/smartnat/pkg/iptables"
)

// newSets returns nil where the host has no sets, and a long list of sources has to be rules.
func newSets(cfg config.Config, tables *iptables.Runner) dataplane.Sets {
	if !tables.Sets() {
		return nil
	}
	sets, err := ipset.New(cfg.Ownership)
	if err != nil {
		return nil
	}
	return sets
}
