// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package program

import (
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/packet"
)

// TestClientsAreRememberedAcrossChanges adds a backend and expects that a client keeps the one that it had.
func TestClientsAreRememberedAcrossChanges(t *testing.T) {
	inKernel(t, func(t *testing.T, k kernel) {
		state := k.state()
		to := state.Forwards[len(state.Forwards)-1].Address
		client := netip.PrefixFrom(to, to.BitLen()-8).Masked().Addr()
		everythingIsLocal(t, netip.PrefixFrom(client, client.BitLen()-8))
		k.load(t, "*filter\n-A INPUT -j DROP\nCOMMIT\n")
		k.apply(t, k.build(state))
		send(t, packet.Packet{Protocol: gateway.TCP, Source: netip.AddrPortFrom(client, 0), Destination: netip.AddrPortFrom(to, 80)})

		remembered := func() (by []string) {
			for _, f := range state.Forwards {
				if f.Address != to || f.Protocol != gateway.TCP {
					continue
				}
				for _, b := range f.Backends {
					list := own.ChainPrefix + "IXHRAO4RS6-" + b.Address.String()
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
			t.Fatalf("the client is in the lists %q, want one list", before)
		}
		for _, f := range state.Forwards {
			if f.Address == to && f.Protocol == gateway.TCP {
				f.Backends = append(f.Backends, gateway.Backend{Address: f.Backends[2].Address.Next(), Port: 8000})
			}
		}
		if batch := k.apply(t, k.build(state)); batch.Chains() != 1 {
			t.Errorf("%d chains written, want 1", batch.Chains())
		}
		if after := remembered(); len(after) != 1 || after[0] != before[0] {
			t.Errorf("the client is in the lists %q, want %q as before", after, before)
		}
	})
}

// TestAClientMeetsOneEndpoint: a client that connects to all ports of a Service reaches the same endpoint, because the client
// lists belong to the Service and not to a port.
func TestAClientMeetsOneEndpoint(t *testing.T) {
	inKernel(t, func(t *testing.T, k kernel) {
		to := address(k.family, 1)
		clients := netip.PrefixFrom(address(k.family, 128), to.BitLen()-4)
		everythingIsLocal(t, netip.PrefixFrom(to, to.BitLen()-8))
		k.load(t, "*filter\n-A INPUT -j DROP\nCOMMIT\n")
		var state gateway.State
		for _, front := range []gateway.Frontend{
			{Address: to, Protocol: gateway.TCP, Ports: gateway.Port(21)},
			{Address: to, Protocol: gateway.TCP, Ports: gateway.PortRange{First: 21100, Last: 21110}},
			{Address: to, Protocol: gateway.UDP, Ports: gateway.Port(5201)},
			{Address: to.Next(), Protocol: gateway.UDP, Ports: gateway.Port(5201)},
		} {
			f := &gateway.Forward{Frontend: front, Owner: "default/ftp", Service: "default/ftp", Masquerade: true, Affinity: time.Hour, Shift: !front.Ports.Single()}
			for i := range 3 {
				f.Backends = append(f.Backends, gateway.Backend{Address: address(k.family, 100+i), Port: front.Ports.First})
			}
			state.Forwards = append(state.Forwards, f)
		}
		k.apply(t, k.build(state))
		met := map[netip.Addr]int{}
		for n := range 16 {
			client := clients.Addr()
			for range n {
				client = client.Next()
			}
			var first netip.Addr
			for _, f := range state.Forwards {
				p := packet.Packet{Protocol: f.Protocol, Source: netip.AddrPortFrom(client, 40000), Destination: netip.AddrPortFrom(f.Address, f.Ports.Last)}
				send(t, p)
				pod := k.translated(t, p).Addr()
				if !first.IsValid() {
					first = pod
					met[pod]++
				}
				if pod != first {
					t.Errorf("client %s reaches %s through %s but %s through %s", client, first, state.Forwards[0].Frontend, pod, f.Frontend)
				}
			}
		}
		if len(met) < 2 {
			t.Errorf("all clients reach one endpoint: %v", met)
		}
	})
}
