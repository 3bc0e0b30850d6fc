// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/smartnat/smartnat/pkg/operator"
)

func TestPrintWho(t *testing.T) {
	at, now := netip.MustParseAddrPort, time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	in := operator.ClientConnection{Connection: operator.Connection{
		Mapping: "shop/db", Protocol: "tcp", Client: at("203.0.113.7:40000"), External: at("198.51.100.10:5432"), Backend: at("10.244.1.5:5432"), Start: now,
	}}
	out := operator.ClientConnection{Uncertain: true, End: now, Connection: operator.Connection{
		Protocol: "udp", Leaving: true, Client: at("10.244.1.9:1"), External: at("192.0.2.80:443"), Backend: at("192.0.2.80:443"),
	}}
	for _, tc := range []struct {
		name   string
		answer operator.Clients
		want   string
	}{
		{"no client, and no log", operator.Clients{Seen: at("10.10.0.2:1"), Protocol: "tcp"}, `no connection with the source 10.10.0.2:1/tcp is known
only open connections are known: flowLog in the config would keep ended ones
`},
		{"an empty log", operator.Clients{Seen: at("10.10.0.2:1"), Protocol: "tcp", Log: operator.FlowLog{File: "f", Losses: 2}}, `no connection with the source 10.10.0.2:1/tcp is known
the log of ended connections is empty
the log has gaps (2): the client may be in one of them
`},
		{"two of nine", operator.Clients{Total: 9, Clients: []operator.ClientConnection{in, out}, Log: operator.FlowLog{File: "f", Oldest: now}},
			`203.0.113.7:40000, to 198.51.100.10:5432/tcp, Mapping shop/db, answered by 10.244.1.5:5432: since 2026-01-02T03:04:05Z, open
pod 10.244.1.9:1, to the server 192.0.2.80:443/udp: since an unknown time, until 2026-01-02T03:04:05Z (it may have begun later)
and 7 earlier ones: --at narrows it down
the log goes back to 2026-01-02T03:04:05Z
`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var text strings.Builder
			if err := printWho(&text, tc.answer); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, text.String()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestParseTime(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for text, want := range map[string]time.Time{
		"": {}, "10m": now.Add(-10 * time.Minute), "0s": now, "2026-01-01T00:00:00+02:00": time.Date(2025, 12, 31, 22, 0, 0, 0, time.UTC),
	} {
		if got, err := parseTime(text, now); err != nil || !got.Equal(want) {
			t.Errorf("%q: %v, %v; want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"-10m", "yesterday", "2026-01-02", "2026-01-03T00:00:00Z"} {
		if got, err := parseTime(text, now); err == nil {
			t.Errorf("%q: %v, want an error", text, got)
		}
	}
}
