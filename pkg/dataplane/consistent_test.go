// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package dataplane_test

import (
	"bufio"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/packet"
	"github.com/smartnat/smartnat/pkg/testenv"
)

// flowKey is a client's tuple, less its address, which is the same for all.
type flowKey struct {
	protocol gateway.Protocol
	external netip.AddrPort
	port     uint16
}

func (k flowKey) source() netip.AddrPort {
	if k.external.Addr().Is6() {
		return netip.AddrPortFrom(addr("2001:db8:1::50"), k.port)
	}
	return netip.AddrPortFrom(addr("198.51.100.50"), k.port)
}

// TestGatewaysAgree expects that two gateways lead each of 200 clients to the same endpoint, also if one had other endpoints
// before, that a Tracer knows which one, and that ClientIP affinity ignores the client's port.
func TestGatewaysAgree(t *testing.T) {
	pods := map[string][]netip.Addr{
		"198.51.100.10":  addrs("10.244.1.2", "10.244.1.3", "10.244.1.4", "10.244.1.5"),
		"2001:db8:1::10": addrs("fd00:244:1::2", "fd00:244:1::3", "fd00:244:1::4", "fd00:244:1::5"),
	}
	state := func(consistent bool, from int) gateway.State {
		s := gateway.State{Uplinks: []gateway.Uplink{{Link: "eth1", Number: 1, Connected: prefixes("198.51.100.0/24", "2001:db8:1::/64")}}}
		for _, external := range slices.Sorted(maps.Keys(pods)) {
			for _, protocol := range []gateway.Protocol{gateway.TCP, gateway.UDP} {
				for _, affinity := range []time.Duration{0, time.Hour} {
					f := forward(external, 80)
					f.Protocol, f.Consistent, f.Affinity, f.Masquerade = protocol, consistent, affinity, false
					if affinity > 0 {
						f.Ports = gateway.PortRange{First: 81, Last: 81}
					}
					for _, pod := range pods[external][from:] {
						f.Backends = append(f.Backends, gateway.Backend{Address: pod, Port: 8080})
					}
					s.Forwards = append(s.Forwards, f)
				}
			}
		}
		return s
	}
	gatewayWith := func(t *testing.T, history ...gateway.State) map[flowKey]string {
		testenv.RequireTool(t, "ip")
		testenv.NewNetNS(t)
		h := newHost(t, newNFTables(t, false))
		connect(t, "client", "eth1", []string{"198.51.100.10/24", "2001:db8:1::10/64"}, []string{"198.51.100.50/24", "2001:db8:1::50/64"})
		connect(t, "pod1", "pod1", []string{"10.244.1.1/24", "fd00:244:1::1/64"}, []string{"10.244.1.99/24", "fd00:244:1::99/64"})
		for _, pod := range slices.Concat(slices.Collect(maps.Values(pods))...) {
			run(t, "ip", fmt.Sprintf("-n pod1 addr add %s/%d dev eth0 nodad", pod, pod.BitLen()))
			testenv.In(t, "pod1", func() error {
				return answer(t, netip.AddrPortFrom(pod, 8080).String(), func(net.Addr) string { return pod.String() })
			})
		}
		testenv.AwaitLocal(t, "2001:db8:1::10", "fd00:244:1::1")
		d := h.start()
		for _, s := range history {
			apply(t, d, s)
		}
		tracers := h.options().tracers(t)
		got := map[flowKey]string{}
		for external := range pods {
			for _, protocol := range []gateway.Protocol{gateway.TCP, gateway.UDP} {
				for i := range uint16(60) {
					port := uint16(80)
					if i >= 50 {
						port = 81
					}
					key := flowKey{protocol, netip.AddrPortFrom(addr(external), port), 20000 + 37*i}
					got[key] = endpointOf(t, key)
					if want := traced(tracers, key); got[key] != want {
						t.Errorf("%+v reaches %s, the Tracer says %s", key, got[key], want)
					}
				}
			}
		}
		return got
	}
	var first, second map[flowKey]string
	t.Run("one gateway", func(t *testing.T) { first = gatewayWith(t, state(true, 0)) })
	t.Run("another gateway", func(t *testing.T) { second = gatewayWith(t, state(false, 0), state(true, 2), state(true, 0)) })
	if diff := cmp.Diff(first, second, cmp.AllowUnexported(flowKey{}), cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" || len(first) != 240 {
		t.Errorf("%d flows (-one gateway +another):\n%s", len(first), diff)
	}
	endpoints, sticky := map[string]bool{}, map[netip.Addr]map[string]bool{}
	for key, endpoint := range first {
		if key.external.Port() == 80 {
			endpoints[endpoint] = true
			continue
		}
		if sticky[key.external.Addr()] == nil {
			sticky[key.external.Addr()] = map[string]bool{}
		}
		sticky[key.external.Addr()][endpoint] = true
	}
	if len(endpoints) != 8 {
		t.Errorf("connections reach %v, want all endpoints", endpoints)
	}
	for external, reached := range sticky {
		if len(reached) != 1 {
			t.Errorf("a client of %s with affinity reaches %v, want one endpoint", external, reached)
		}
	}
}

// endpointOf returns the endpoint that answers a client's port.
func endpointOf(t *testing.T, key flowKey) string {
	t.Helper()
	dialer := net.Dialer{Timeout: 10 * time.Second, LocalAddr: net.TCPAddrFromAddrPort(key.source())}
	if key.protocol == gateway.UDP {
		dialer.LocalAddr = net.UDPAddrFromAddrPort(key.source())
	}
	var conn net.Conn
	testenv.In(t, "client", func() (err error) {
		conn, err = dialer.DialContext(t.Context(), string(key.protocol), key.external.String())
		return err
	})
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write([]byte("who\n")); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(conn)
	if !lines.Scan() {
		t.Fatalf("%+v: %v", key, lines.Err())
	}
	return lines.Text()
}

// traced returns the only endpoint to which a Tracer lets a client get.
func traced(tracers map[gateway.Family]packet.Tracer, key flowKey) string {
	family := gateway.IPv4
	if key.external.Addr().Is6() {
		family = gateway.IPv6
	}
	p := packet.Packet{
		In: "eth1", Protocol: key.protocol, State: packet.New, Direction: packet.Original, SYN: key.protocol == gateway.TCP,
		Source: key.source(), Destination: key.external,
		Route: func(destination netip.Addr, _ uint32) string {
			if destination == key.external.Addr() {
				return ""
			}
			return "pod1"
		},
	}
	outcomes := slices.Collect(tracers[family].Outcomes(p))
	if len(outcomes) != 1 {
		return fmt.Sprintf("%d outcomes", len(outcomes))
	}
	return outcomes[0].Packet.Destination.Addr().String()
}
