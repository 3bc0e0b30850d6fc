// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package iptables

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/netfilter"
)

// TestClientsAreRememberedAcrossChanges adds a backend where a client has one already.
func TestClientsAreRememberedAcrossChanges(t *testing.T) {
	inKernel(t, func(t *testing.T, k kernel) {
		state := k.state()
		to := state.Forwards[len(state.Forwards)-1].Address
		client := netip.PrefixFrom(to, to.BitLen()-8).Masked().Addr()
		everythingIsLocal(t, netip.PrefixFrom(client, client.BitLen()-8))
		k.load(t, "*filter\n-A INPUT -j DROP\nCOMMIT\n")
		k.apply(t, k.build(state))
		send(t, netfilter.Packet{Protocol: gateway.TCP, Source: netip.AddrPortFrom(client, 0), Destination: netip.AddrPortFrom(to, 80)})

		remembered := func() (by []string) {
			for _, f := range state.Forwards {
				if f.Address != to || f.Protocol != gateway.TCP {
					continue
				}
				for _, b := range f.Backends {
					list := fmt.Sprintf("%s%s-%s-80-%s-%d", own.ChainPrefix, f.Protocol, to, b.Address, b.Port)
					text, err := os.ReadFile("/proc/thread-self/net/xt_recent/" + list)
					if err != nil {
						t.Fatal(err)
					}
					if strings.Contains(string(text), "src=") {
						by = append(by, list)
					}
				}
			}
			return by
		}
		before := remembered()
		if len(before) != 1 {
			t.Fatalf("the client is remembered by %q, want one list", before)
		}
		for _, f := range state.Forwards {
			if f.Address == to && f.Protocol == gateway.TCP {
				f.Backends = append(f.Backends, gateway.Backend{Address: f.Backends[2].Address.Next(), Port: 8000})
			}
		}
		if batch := k.apply(t, k.build(state)); batch.Chains() != 1 {
			t.Errorf("%d chains rewritten, want one", batch.Chains())
		}
		if after := remembered(); len(after) != 1 || after[0] != before[0] {
			t.Errorf("the client is remembered by %q, and was by %q", after, before)
		}
	})
}
