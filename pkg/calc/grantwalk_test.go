// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package calc

import (
	"flag"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/pkg/calc/calctest"
	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/gateway"
	iptables "github.com/smartnat/smartnat/pkg/iptables/rules"
	iptablesset "github.com/smartnat/smartnat/pkg/iptables/ruleset"
	nftables "github.com/smartnat/smartnat/pkg/nftables/rules"
	nftablesset "github.com/smartnat/smartnat/pkg/nftables/ruleset"
	"github.com/smartnat/smartnat/pkg/packet"
)

var operations = flag.Int("operations", 2000, "length of the random walk of tenants")

// How often the walk compares with a start, and sends packets through the models of both data planes.
const (
	startEvery, packetsEvery = 200, 50
	packetsEach              = 100
)

// TestNothingIsForwardedWithoutAGrant is a random walk of 1,000 tenants, whose Mappings, Services, endpoints, labels and PortGrants
// come, change and go. After each step, a State must not forward, or let pods leave by, anything that the PortGrants of that moment do
// not give the tenant. After some steps it must be the State that a start would compute, and the rules of both data planes must forward
// no packet that the specs forbid.
func TestNothingIsForwardedWithoutAGrant(t *testing.T) {
	w := newTenants()
	for step := 1; step <= *operations; step++ {
		did := w.Step()
		state, _ := w.calculator.Calculate(w.Snapshot(), w.host)
		w.check(t, state)
		if step%startEvery == 0 {
			fresh, _ := Calculate(w.Snapshot(), w.host, w.cfg)
			if got, want := spell(state), spell(fresh); got != want {
				t.Fatalf("after %d steps, a start would program something else", step)
			}
		}
		if step%packetsEvery == 0 {
			w.send(t, state)
		}
		if t.Failed() {
			t.Fatalf("after %d steps, the last one about %s", step, did)
		}
	}
	t.Logf("%v; checked %d Forwards and %d Egresses, and %d packets in each model, of which %v were forwarded", w.Counts, w.forwarded, w.left, w.sent, w.through)
	if w.forwarded == 0 || w.left == 0 || w.through["iptables"] == 0 || w.through["nftables"] == 0 {
		t.Error("the walk tests nothing")
	}
}

// tenants is a cluster of tenants, and a gateway.
type tenants struct {
	*calctest.Tenants
	cfg        config.Config
	host       gateway.Host
	calculator *Calculator
	// checked are the Forwards of the last State, with the version of all that decides about them.
	checked map[*gateway.Forward][2]int
	// forwarded and left count what was checked, sent the packets, and through those that a model forwarded.
	forwarded, left, sent int
	through               map[string]int
	builder               *iptables.Builder
}

func newTenants() *tenants {
	cfg := config.Default()
	cfg.Source = config.Source{Relay: &config.Relay{Servers: []string{"https://relay"}}}
	cfg.Uplinks = []config.Uplink{{Interface: "eth1"}}
	own := gateway.DefaultOwnership()
	external := []string{"198.51.100.1", "198.51.100.2", "198.51.100.3"}
	return &tenants{
		Tenants: calctest.New(22, calctest.Options{
			Tenants: 1000, Grants: 30, GrantSteps: 10, Addresses: external, Granted: append(external[:len(external):len(external)], "198.51.100.2/31"),
			Sources: []string{"10.0.0.0/8", "10.1.0.0/16", "203.0.113.0/24", "0.0.0.0/0"}, Ports: 250,
			Protocols: []v1alpha1.Protocol{"tcp", "udp"}, Pods: 200,
			Pod: func(i, n int) netip.Addr {
				return netip.AddrFrom4([4]byte{10, byte(244 + i/250), byte(i % 250), byte(1 + n)})
			},
			ClusterIP: func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 96, byte(i / 250), byte(1 + i%250)}) },
		}),
		cfg: cfg, calculator: NewCalculator(cfg), checked: map[*gateway.Forward][2]int{}, through: map[string]int{},
		builder: iptables.NewBuilder(gateway.IPv4, iptables.Options{Ownership: own}),
		host: gateway.Host{
			Links: []gateway.Link{
				{Name: "eth0", Up: true, Addresses: []netip.Prefix{netip.MustParsePrefix("10.10.0.2/24")}},
				{Name: "eth1", Up: true, Addresses: []netip.Prefix{netip.MustParsePrefix("198.51.100.1/24"), netip.MustParsePrefix("198.51.100.2/24"), netip.MustParsePrefix("198.51.100.3/24")}},
			},
			Routes: []gateway.Route{
				{Destination: netip.MustParsePrefix("10.96.0.0/16"), Link: "eth0", Gateway: netip.MustParseAddr("10.10.0.11")},
				{Destination: netip.MustParsePrefix("10.244.0.0/14"), Link: "eth0", Gateway: netip.MustParseAddr("10.10.0.11")},
			},
		},
	}
}

func frontendOf(f *gateway.Forward) calctest.Frontend {
	return calctest.Frontend{Address: f.Address, Protocol: v1alpha1.Protocol(f.Protocol), Port: f.Ports.First}
}

// check compares a State with the specs. A Forward never changes, so it is checked again only after a change of what decides about it.
func (w *tenants) check(t *testing.T, state gateway.State) {
	t.Helper()
	before := w.checked
	w.checked = make(map[*gateway.Forward][2]int, len(state.Forwards))
	for _, f := range state.Forwards {
		w.forwarded++
		namespace, _, _ := strings.Cut(f.Owner, "/")
		version := w.Version(namespace, f.Address)
		if w.checked[f] = version; before[f] == version {
			continue
		}
		if len(f.Backends) == 0 { // It is only answered that nothing is there.
			if why := w.RefusesPorts(namespace, frontendOf(f), f.Ports.Last, f.Sources); why != "" {
				t.Errorf("%s of %s is answered for %v: %s", f.Frontend, f.Owner, f.Sources, why)
			}
		}
		for _, b := range f.Backends {
			if why := w.Refuses(namespace, frontendOf(f), f.Ports.Last, f.Sources, b.Address); why != "" {
				t.Errorf("%s of %s is forwarded to %s for %v: %s", f.Frontend, f.Owner, b.Address, f.Sources, why)
			}
		}
	}
	for _, e := range state.Egresses {
		w.left++
		namespace, _, _ := strings.Cut(e.Owner, "/")
		if why := w.RefusesEgress(namespace, e.Address); why != "" {
			t.Errorf("pods of %s leave with %s: %s", e.Owner, e.Address, why)
		}
	}
}

// send sends first packets of connections through the models of both data planes. Half of them go to a Frontend of the State.
func (w *tenants) send(t *testing.T, state gateway.State) {
	t.Helper()
	own := gateway.DefaultOwnership()
	models := map[string]packet.Tracer{
		"iptables": iptablesset.NewTracer(w.builder.Build(state)),
		"nftables": nftablesset.NewTracer(nftables.Build(state, gateway.IPv4, own), own.TableName(), nftables.BridgedMark(own)),
	}
	for i := range packetsEach {
		w.sent++
		p := packet.Packet{
			In: "eth1", Protocol: gateway.Protocol(w.Protocols[w.IntN(len(w.Protocols))]), State: packet.New, Direction: packet.Original,
			Source:      netip.AddrPortFrom(w.client(), uint16(1024+w.IntN(60000))),
			Destination: netip.AddrPortFrom(netip.MustParseAddr(w.Addresses[w.IntN(len(w.Addresses))]), uint16(1+w.IntN(w.Ports))),
			Route: func(destination netip.Addr, _ uint32) string {
				if destination.As4()[0] == 10 {
					return "eth0"
				}
				return ""
			},
		}
		if i%2 == 0 && len(state.Forwards) > 0 {
			f := state.Forwards[w.IntN(len(state.Forwards))]
			p.Protocol, p.Destination = f.Protocol, netip.AddrPortFrom(f.Address, f.Ports.First+uint16(w.IntN(int(f.Ports.Last-f.Ports.First)+1)))
		} else if i%10 == 1 { // past the NAT
			p.Destination = netip.AddrPortFrom(w.Pod(w.IntN(1000), w.IntN(w.Pods)), calctest.PodPort)
		}
		p.SYN = p.Protocol == gateway.TCP
		for model, tracer := range models {
			for trace := range tracer.Outcomes(p) {
				if trace.Verdict != packet.Accept || trace.Out == "" {
					continue
				}
				w.through[model]++
				front := calctest.Frontend{Address: p.Destination.Addr(), Protocol: v1alpha1.Protocol(p.Protocol), Port: p.Destination.Port()}
				if why := w.Forbids(p.Source.Addr(), front, trace.Packet.Destination.Addr()); why != "" {
					t.Errorf("%s: %s from %s to %s reaches %s: %s", model, p.Protocol, p.Source, p.Destination, trace.Packet.Destination, why)
				}
			}
		}
	}
}

// client returns an address of one of the sources, or another one.
func (w *tenants) client() netip.Addr {
	return []netip.Addr{
		netip.AddrFrom4([4]byte{10, 1, 2, byte(w.IntN(256))}), netip.AddrFrom4([4]byte{10, 200, 2, byte(w.IntN(256))}),
		netip.AddrFrom4([4]byte{203, 0, 113, byte(w.IntN(256))}), netip.AddrFrom4([4]byte{192, 0, 2, byte(w.IntN(256))}),
	}[w.IntN(4)]
}

// spell returns all that a State forwards.
func spell(state gateway.State) string {
	var text strings.Builder
	for _, f := range state.Forwards {
		fmt.Fprintf(&text, "%+v\n", *f)
	}
	for _, e := range state.Egresses {
		fmt.Fprintf(&text, "%+v\n", e)
	}
	return text.String()
}
