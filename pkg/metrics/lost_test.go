// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"errors"
	"strings"
	"testing"
)

// TestLostConnections reports numbers as far as the kernel can be asked.
func TestLostConnections(t *testing.T) {
	const name = "smartnat_conntrack_lost_total"
	m := New("v1", &fakeGateway{})
	var failure error
	m.CountLost(func() (uint64, error) { return 7, failure })
	if got := ours(t, m); !strings.Contains(got, "\n"+name+" 7\n") {
		t.Errorf("not counted:\n%s", got)
	}
	if failure = errors.New("no conntrack"); strings.Contains(ours(t, m), name) {
		t.Error("a number is reported that could not be read")
	}
}
