// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"errors"
	"strings"
	"testing"
)

// TestLostConnections expects the counter while it can be read, and no sample otherwise.
func TestLostConnections(t *testing.T) {
	const name = "smartnat_conntrack_lost_total"
	m := New("v1", &fakeStatus{})
	var failure error
	m.CountLost(func() (uint64, error) { return 7, failure })
	if got := ours(t, m); !strings.Contains(got, "\n"+name+" 7\n") {
		t.Errorf("not counted:\n%s", got)
	}
	if failure = errors.New("no conntrack"); strings.Contains(ours(t, m), name) {
		t.Error("a sample is reported although reading failed")
	}
}
