// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package rules

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	vnetlink "github.com/vishvananda/netlink"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/nftables/netlink"
	"github.com/smartnat/smartnat/pkg/nftables/ruleset"
	"github.com/smartnat/smartnat/pkg/packet"
	"github.com/smartnat/smartnat/pkg/testenv"
)

// TestKernelTranslatesRanges connects to each port of ranges and expects the port that the Tracer expects. nft(8) cannot spell
// the rules for shifted ranges, so they are loaded as byte code.
func TestKernelTranslatesRanges(t *testing.T) {
	for _, family := range families {
		for _, tc := range []struct {
			name        string
			first, last uint16
			to          uint16
			shift       bool
			affinity    time.Duration
		}{
			{"to one port", 101, 110, 8080, false, 0},
			{"to the same ports", 101, 110, 101, true, 0},
			{"at a multiple of the length", 20000, 20009, 30005, true, 0},
			{"elsewhere", 101, 110, 205, true, 0},
			{"elsewhere, remembered", 101, 110, 205, true, time.Hour},
			{"to one port, remembered", 101, 110, 8080, false, time.Hour},
			{"to the same ports, remembered", 101, 110, 101, true, time.Hour},
		} {
			t.Run(fmt.Sprintf("%s/IPv%d", tc.name, family), func(t *testing.T) {
				testenv.NewNetNS(t)
				lo, err := vnetlink.LinkByName("lo")
				if err != nil {
					t.Fatal(err)
				}
				f := forward(family, 1, gateway.TCP, tc.first, tc.last, backends(family, 1, tc.to))
				if tc.affinity > 0 {
					f.Backends = backends(family, 2, tc.to)
				}
				f.Shift, f.Affinity = tc.shift, tc.affinity
				addresses := []string{f.Address.String()}
				for _, b := range f.Backends {
					addresses = append(addresses, b.Address.String())
				}
				for _, a := range addresses {
					address := &vnetlink.Addr{IPNet: &net.IPNet{IP: net.ParseIP(a), Mask: net.CIDRMask(f.Address.BitLen(), f.Address.BitLen())}}
					if err := vnetlink.AddrAdd(lo, address); err != nil {
						t.Fatalf("adding %s: %v", a, err)
					}
				}
				testenv.AwaitLocal(t, addresses...)
				write(t, Build(stateOf(f), family, ownership))
				tracer := tracer(stateOf(f), family)
				for port := f.Ports.First; port <= f.Ports.Last; port++ {
					p := firstPacket(family, f.Address, f.Address, gateway.TCP, port)
					p.In = ""
					expect := map[netip.AddrPort]bool{}
					for trace := range tracer.Outcomes(p) {
						expect[trace.Packet.Destination] = true
					}
					connect(t, p, expect)
				}
			})
		}
	}
}

// write loads a table into the kernel until the test ends.
func write(t *testing.T, table ruleset.Table) {
	t.Helper()
	tables, err := netlink.NewTables("smartnat", true)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tables.Close() })
	if err := tables.Write(t.Context(), table.Family, ruleset.Diff(ruleset.Table{Family: table.Family}, table)); err != nil {
		t.Fatal(err)
	}
}

// connect opens a connection from the host and expects it at one of the destinations.
func connect(t *testing.T, p packet.Packet, expect map[netip.AddrPort]bool) {
	t.Helper()
	arrived := make(chan netip.AddrPort, len(expect))
	for destination := range expect {
		listener, err := net.Listen("tcp", destination.String())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = listener.Close() }()
		go func() {
			if conn, err := listener.Accept(); err == nil {
				arrived <- destination
				_ = conn.Close()
			}
		}()
	}
	conn, err := net.DialTimeout("tcp", p.Destination.String(), 5*time.Second)
	if err != nil {
		t.Fatalf("connecting to %s, which the Tracer leads to %v: %v", p.Destination, expect, err)
	}
	defer func() { _ = conn.Close() }()
	<-arrived
}
