// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"

	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/iptables/program"
)

// TestNoSets checks that the error says why a host has no sets.
func TestNoSets(t *testing.T) {
	sets, err := newSets(config.Default(), &program.Runner{})
	if sets != nil || err == nil || !strings.Contains(err.Error(), "libxt_set") {
		t.Errorf("sets %v, err = %v; want none, and that iptables lacks them", sets, err)
	}
}
