// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package calc

import (
	"net/netip"
	"testing"
	"time"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/iptables/rules"
	"github.com/smartnat/smartnat/pkg/iptables/ruleset"
)

// TestCostIsWhatIsBuilt compares the estimate with the actual number of translating rules, of rules that match a port, and of
// lists of clients.
func TestCostIsWhatIsBuilt(t *testing.T) {
	for _, tc := range []struct {
		name                        string
		ports, addresses, endpoints int
		affinity                    time.Duration
		want                        int
	}{
		{"one port", 1, 1, 1, 0, 2},
		{"no endpoint", 1, 1, 0, 0, 1},
		{"several endpoints", 1, 1, 3, 0, 4},
		{"ports and addresses", 4, 3, 3, 0, 48},
		{"no affinity with a single endpoint", 1, 1, 1, time.Hour, 2},
		{"affinity", 1, 1, 3, time.Hour, 10},
		{"affinity, lists do not grow with ports and addresses", 4, 3, 3, time.Hour, 87},
		{"affinity, 256 ports, 3 addresses and 40 endpoints", 256, 3, 40, time.Hour, 62248},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var wants []want
			state := gateway.State{}
			for a := range tc.addresses {
				for p := range tc.ports {
					f := gateway.Forward{
						Frontend: gateway.Frontend{
							Address: netip.AddrFrom4([4]byte{198, 51, 100, byte(10 + a)}), Protocol: gateway.TCP, Ports: gateway.Port(uint16(1000 + 2*p)),
						},
						Owner: "default/web", Service: "default/web", Affinity: tc.affinity, Masquerade: true,
					}
					for e := range tc.endpoints {
						f.Backends = append(f.Backends, gateway.Backend{Address: netip.AddrFrom4([4]byte{10, 244, 1, byte(2 + e)}), Port: uint16(8000 + p)})
					}
					wants = append(wants, want{Forward: f})
					state.Forwards = append(state.Forwards, &f)
				}
			}
			if got := cost(wants); got != tc.want {
				t.Errorf("cost %d, want %d", got, tc.want)
			}
			built, lists := len(wants), map[string]bool{} // one rule matches each port
			for _, table := range rules.Build(state, gateway.IPv4, rules.Options{Ownership: gateway.DefaultOwnership()}).Tables {
				for _, c := range table.Chains {
					for _, r := range c.Rules {
						if r.Target.Verb == ruleset.DNAT {
							built++
						}
						if r.Recent.Name != "" {
							lists[r.Recent.Name] = true
						}
					}
				}
			}
			if built += len(lists); tc.endpoints <= 32 && built != tc.want { // more endpoints are in groups that share rules
				t.Errorf("%d rules and lists are built, want %d", built, tc.want)
			}
		})
	}
}
