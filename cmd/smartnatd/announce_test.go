// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/smartnat/smartnat/pkg/announce"
	"github.com/smartnat/smartnat/pkg/finding"
	"github.com/smartnat/smartnat/pkg/gateway"
)

func TestAnnounceFacts(t *testing.T) {
	for name, test := range map[string]struct {
		alive, ready error
		report       *finding.Report
		known        bool
		problem      string
		failed       bool
	}{
		"works":               {nil, nil, &finding.Report{}, true, "", false},
		"starts":              {nil, errors.New("not yet"), nil, true, "not yet", false},
		"starts, and applied": {nil, errors.New("not verified"), &finding.Report{}, true, "not verified", false},
		"hangs":               {errors.New("hangs"), nil, &finding.Report{}, true, "hangs", false},
		"reloads":             {nil, nil, nil, false, "", false},
		"fails":               {nil, nil, &finding.Report{Err: errors.New("x")}, true, "", true},
	} {
		t.Run(name, func(t *testing.T) {
			f := announceFacts(nil, test.alive, test.ready, test.report)
			if (f != nil) != test.known || f != nil && (f.Problem != test.problem || f.Failed != test.failed) {
				t.Errorf("%+v", f)
			}
		})
	}
	observed := gateway.Host{Routes: []gateway.Route{{Link: "eth0"}}, Unreachable: []netip.Addr{netip.MustParseAddr("10.10.0.11")}}
	if f := announceFacts(nil, nil, nil, &finding.Report{Host: observed}); f == nil || len(f.Routes) != 1 || len(f.Unreachable) != 1 {
		t.Errorf("of the host: %+v", f)
	}
}

func TestAnnouncedRows(t *testing.T) {
	address := netip.MustParseAddr
	got := announcedRows(announce.Status{
		Addresses: []announce.Address{{Address: address("203.0.113.1")}, {Address: address("203.0.113.2"), Why: "unused"}, {Address: address("203.0.113.3")}, {Address: address("203.0.113.4"), Why: "unused"}},
		Problem:   "BIRD does not answer",
	})
	want := [][]string{{"announces", "203.0.113.1, 203.0.113.3"}, {"not announced", "203.0.113.2, 203.0.113.4: unused"}, {"announcing fails", "BIRD does not answer"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([][]string{{"announces", "-"}}, announcedRows(announce.Status{})); diff != "" {
		t.Errorf("nothing (-want +got):\n%s", diff)
	}
}
