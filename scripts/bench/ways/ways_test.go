// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package ways

import "testing"

// TestTargets: the load targets match the objects.
func TestTargets(t *testing.T) {
	if got := PodTargets("IPv6", TrackedPods, 11); len(got) != 33 || got[30].String() != "[fd00:245:2::3]:8080" || got[2].String() != "[fd00:245:1::3]:8080" {
		t.Errorf("targets = %v", got)
	}
	if got := MappedTargets("198.51.100.10", 11); len(got) != 11 || got[10].String() != "198.51.100.10:20010" {
		t.Errorf("targets = %v", got)
	}
}
