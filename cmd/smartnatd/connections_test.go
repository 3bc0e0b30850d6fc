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

func TestPrintConnections(t *testing.T) {
	at, now := netip.MustParseAddrPort, time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	in := operator.Connection{
		Mapping: "shop/db", Protocol: "tcp", Client: at("203.0.113.7:40000"), External: at("198.51.100.10:5432"), Backend: at("10.244.1.5:5432"), Seen: at("10.10.0.2:6000"),
		State: "ESTABLISHED", Start: now.Add(-90 * time.Second), BytesFromClient: 2048, BytesToClient: 1,
	}
	out := operator.Connection{
		Protocol: "udp", Leaving: true, Client: at("10.244.1.9:1"), External: at("192.0.2.80:443"), Backend: at("192.0.2.80:443"), Seen: at("198.51.100.10:2"), State: "UNREPLIED",
	}
	for _, tc := range []struct {
		name   string
		answer operator.Connections
		want   string
	}{
		{"none", operator.Connections{}, "no connections\n"},
		{"all", operator.Connections{Total: 2, Connections: []operator.Connection{in, out}}, `CLIENT                   EXTERNAL            POD              PROTOCOL  STATE        AGE      IN       OUT  MAPPING
203.0.113.7:40000        198.51.100.10:5432  10.244.1.5:5432  tcp       ESTABLISHED  90s      2.0 KiB  1 B  shop/db
192.0.2.80:443 (server)  198.51.100.10:2     10.244.1.9:1     udp       UNREPLIED    unknown  0 B      0 B  none now
`},
		{"some", operator.Connections{Total: 7, Connections: []operator.Connection{in}}, `CLIENT             EXTERNAL            POD              PROTOCOL  STATE        AGE  IN       OUT  MAPPING
203.0.113.7:40000  198.51.100.10:5432  10.244.1.5:5432  tcp       ESTABLISHED  90s  2.0 KiB  1 B  shop/db

1 of 7 connections, those with the most bytes: --limit prints more
`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var text strings.Builder
			if err := printConnections(&text, tc.answer, now); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, text.String()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
