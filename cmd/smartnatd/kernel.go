// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"

	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/iptables"
	"github.com/smartnat/smartnat/pkg/iptables/ipset"
	"github.com/smartnat/smartnat/pkg/iptables/program"
)

// newSets returns an error if the host has no sets; then each source of a long list becomes a rule.
func newSets(cfg config.Config, tables *program.Runner) (iptables.Sets, error) {
	if !tables.Sets() {
		return nil, errors.New("iptables has no match by sets (libxt_set)")
	}
	sets, err := ipset.New(cfg.Ownership)
	if err != nil {
		return nil, err
	}
	return sets, nil
}
