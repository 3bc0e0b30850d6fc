// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/smartnat/smartnat/pkg/ha"
)

func TestPair(t *testing.T) {
	m := New("1.2.3", &fakeStatus{})
	var status *ha.Status
	m.CountPair(func() *ha.Status { return status })
	if got := ours(t, m); strings.Contains(got, "smartnat_pair") {
		t.Errorf("without a pair:\n%s", got)
	}
	status = &ha.Status{
		Own:  ha.Facts{Role: ha.Notified{Role: ha.Backup, Since: at(7)}, Missed: []netip.Addr{netip.MustParseAddr("198.51.100.1")}, Connections: 12},
		Peer: &ha.Facts{Connections: 13}, Differences: []string{"uplinks"}, Refreshes: 3, SyncProblem: "conntrackd is not installed",
	}
	compare(t, "testdata/pair.golden", ours(t, m))
	status.Copying = &ha.Copying{Own: 1, Copied: 2, NotCopied: 3, SendErrors: 4, ReceiveErrors: 5, Malformed: 6, Lost: 7}
	status.Hook = &ha.HookResult{Role: ha.Primary, Problem: "exit status 1"}
	compare(t, "testdata/pair-copying.golden", ours(t, m))
}
