// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package operator

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/smartnat/smartnat/pkg/flows"
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/gateway/gatewaytest"
	"github.com/smartnat/smartnat/pkg/traffic"
)

var began = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// openFlows are a client of shop/db, a pod that leaves with its address, and a connection whose Mapping is gone.
func openFlows() []flows.Flow {
	at := netip.MustParseAddrPort
	return []flows.Flow{
		{Protocol: gateway.TCP, Client: at("203.0.113.7:40000"), External: at("198.51.100.10:5432"), Backend: at("10.244.1.5:5432"), Seen: at("10.10.0.2:6000"),
			State: "ESTABLISHED", Start: began, FromClient: traffic.Volume{Bytes: 1}, ToClient: traffic.Volume{Bytes: 2}},
		{Protocol: gateway.TCP, Client: at("10.244.1.9:40001"), External: at("192.0.2.80:443"), Backend: at("192.0.2.80:443"), Seen: at("198.51.100.10:40001"),
			State: "ESTABLISHED", FromClient: traffic.Volume{Bytes: 9}},
		{Protocol: gateway.UDP, Client: at("203.0.113.7:40000"), External: at("198.51.100.10:53"), Backend: at("10.244.1.5:53"), Seen: at("10.10.0.2:6000"), State: "UNREPLIED"},
	}
}

func withEgress() *fakeDaemon {
	d := inEffect()
	d.report.State.Egresses = []gateway.Egress{{Address: netip.MustParseAddr("198.51.100.10"), Owner: "shop/broken", Sources: gatewaytest.Addrs("10.244.1.9")}}
	return d
}

func TestConnections(t *testing.T) {
	client, _ := serve(t, withEgress())
	for _, tc := range []struct {
		name, mapping string
		limit, total  int
		want          []string
	}{
		{"all", "", 50, 3, []string{"shop/broken", "shop/db", ""}},
		{"the largest", "", 1, 3, []string{"shop/broken"}},
		{"of one Mapping", "shop/db", 50, 1, []string{"shop/db"}},
		{"of a Mapping without any", "shop/away", 50, 0, []string{}},
	} {
		got, err := client.Connections(t.Context(), tc.mapping, tc.limit)
		if err != nil {
			t.Errorf("%s: %v", tc.name, err)
		}
		owners := []string{}
		for _, c := range got.Connections {
			owners = append(owners, c.Mapping)
			if c.Leaving != (c.Mapping == "shop/broken") || c.Start.Equal(began) != (c.Mapping == "shop/db") {
				t.Errorf("%s: %+v", tc.name, c)
			}
		}
		if diff := cmp.Diff(tc.want, owners); diff != "" || got.Total != tc.total {
			t.Errorf("%s: %d, want %d (-want +got):\n%s", tc.name, got.Total, tc.total, diff)
		}
	}
	for _, tc := range []struct {
		name, mapping string
		limit         int
		daemon        Daemon
		want          string
	}{
		{"no such Mapping", "shop/none", 1, inEffect(), "there is no Mapping shop/none"},
		{"none at all", "", 0, inEffect(), `limit "0": want a number from 1 to 10000`},
		{"too many", "", MaxConnections + 1, inEffect(), `limit "10001"`},
		{"nothing is programmed yet", "", 1, &fakeDaemon{}, "programmed nothing yet"},
	} {
		client, _ := serve(t, tc.daemon)
		if _, err := client.Connections(t.Context(), tc.mapping, tc.limit); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: error %v, want %q", tc.name, err, tc.want)
		}
	}
	failing := options(inEffect())
	failing.Flows = func(func(flows.Flow)) error { return errors.New("no conntrack") }
	if _, err := listen(t, failing).Connections(t.Context(), "", 1); err == nil || err.Error() != "no conntrack" {
		t.Errorf("the kernel cannot be read: %v", err)
	}
}
