// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/smartnat/smartnat/pkg/announce"
)

func TestAnnounced(t *testing.T) {
	m := New("1.2.3", &fakeStatus{})
	var status *announce.Status
	m.CountAnnounced(func() *announce.Status { return status })
	if got := ours(t, m); strings.Contains(got, "announc") {
		t.Errorf("without announce:\n%s", got)
	}
	status = &announce.Status{Addresses: []announce.Address{{Address: netip.MustParseAddr("203.0.113.10")}, {Address: netip.MustParseAddr("2001:db8::10"), Why: "unused"}}}
	compare(t, "testdata/announced.golden", ours(t, m))
	status.Problem = "BIRD does not answer"
	if got := ours(t, m); !strings.Contains(got, "smartnat_announcing_works 0\n") {
		t.Errorf("with a problem:\n%s", got)
	}
}
