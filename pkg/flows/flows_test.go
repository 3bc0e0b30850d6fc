// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package flows

import (
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/smartnat/smartnat/pkg/traffic"
)

// flow returns a Flow with a number of bytes.
func flow(bytes uint64) Flow {
	return Flow{
		Client: netip.MustParseAddrPort("203.0.113.7:40000"), External: netip.MustParseAddrPort("198.51.100.10:80"),
		Backend: netip.MustParseAddrPort("10.244.1.2:8080"), Seen: netip.MustParseAddrPort("10.10.0.2:40000"),
		FromClient: traffic.Volume{Bytes: bytes / 2}, ToClient: traffic.Volume{Bytes: bytes - bytes/2},
	}
}

func TestTop(t *testing.T) {
	for _, tc := range []struct{ limit, flows, want int }{{1, 0, 0}, {1, 1, 1}, {1, 100, 1}, {10, 9, 9}, {10, 1000, 10}, {1000, 1000, 1000}} {
		top := NewTop(tc.limit)
		for _, bytes := range rand.Perm(tc.flows) {
			top.Add(flow(uint64(bytes)))
			if len(top.flows) > 2*tc.limit {
				t.Fatalf("%d of %d: holds %d", tc.limit, tc.flows, len(top.flows))
			}
		}
		kept, total := top.Flows()
		if len(kept) != tc.want || total != tc.flows {
			t.Errorf("%d of %d: %d of %d, want %d", tc.limit, tc.flows, len(kept), total, tc.want)
		}
		for i, f := range kept {
			if f.bytes() != uint64(tc.flows-1-i) {
				t.Errorf("%d of %d: number %d has %d bytes", tc.limit, tc.flows, i, f.bytes())
			}
		}
	}
}

func TestLeaving(t *testing.T) {
	in, out := flow(0), flow(0)
	out.External = out.Backend
	direct := out
	direct.Seen = direct.Client
	if in.Leaving() || !out.Leaving() || direct.Leaving() {
		t.Error("a connection leaves if only its source is translated")
	}
}
