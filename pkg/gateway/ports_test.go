// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package gateway_test

import (
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"github.com/smartnat/smartnat/pkg/gateway"
)

func ports(first, last uint16) gateway.PortRange { return gateway.PortRange{First: first, Last: last} }

func TestWithout(t *testing.T) {
	for _, tc := range []struct {
		name  string
		taken []gateway.PortRange
		want  []gateway.PortRange
	}{
		{"nothing is taken", nil, []gateway.PortRange{ports(100, 200)}},
		{"only ports outside the range are taken", []gateway.PortRange{ports(1, 99), ports(201, 65535)}, []gateway.PortRange{ports(100, 200)}},
		{"one port", []gateway.PortRange{gateway.Port(150)}, []gateway.PortRange{ports(100, 149), ports(151, 200)}},
		{"both ends", []gateway.PortRange{gateway.Port(200), gateway.Port(100)}, []gateway.PortRange{ports(101, 199)}},
		{"neighbours, overlaps, in no order", []gateway.PortRange{ports(150, 160), ports(140, 155), gateway.Port(161)}, []gateway.PortRange{ports(100, 139), ports(162, 200)}},
		{"the same twice", []gateway.PortRange{gateway.Port(150), gateway.Port(150)}, []gateway.PortRange{ports(100, 149), ports(151, 200)}},
		{"beyond both ends", []gateway.PortRange{ports(90, 110), ports(190, 210)}, []gateway.PortRange{ports(111, 189)}},
		{"all of it", []gateway.PortRange{ports(1, 65535)}, nil},
		{"all of it, in parts", []gateway.PortRange{ports(151, 200), ports(100, 150)}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			before := slices.Clone(tc.taken)
			if got := ports(100, 200).Subtract(tc.taken...); !slices.Equal(got, tc.want) {
				t.Errorf("got %v, want %v", got, tc.want)
			}
			if !slices.Equal(before, tc.taken) {
				t.Errorf("the arguments were changed to %v", tc.taken)
			}
		})
	}
	if got := ports(1, 65535).Subtract(gateway.Port(65535), gateway.Port(1)); !slices.Equal(got, []gateway.PortRange{ports(2, 65534)}) {
		t.Errorf("first and last of all ports: %v", got)
	}
}

func TestPart(t *testing.T) {
	backend := func(port uint16) []gateway.Backend {
		return []gateway.Backend{{Address: netip.MustParseAddr("10.244.1.10"), Port: port}}
	}
	whole := &gateway.Forward{
		Frontend: gateway.Frontend{Ports: ports(100, 200)}, Backends: backend(8100), Draining: backend(8100), Shift: true,
	}
	for _, tc := range []struct {
		part gateway.PortRange
		want *gateway.Forward
	}{
		{ports(100, 149), &gateway.Forward{Frontend: gateway.Frontend{Ports: ports(100, 149)}, Backends: backend(8100), Draining: backend(8100), Shift: true}},
		{ports(151, 200), &gateway.Forward{Frontend: gateway.Frontend{Ports: ports(151, 200)}, Backends: backend(8151), Draining: backend(8151), Shift: true}},
		{ports(200, 200), &gateway.Forward{Frontend: gateway.Frontend{Ports: ports(200, 200)}, Backends: backend(8200), Draining: backend(8200)}},
	} {
		if got := whole.WithPorts(tc.part); !reflect.DeepEqual(got, tc.want) {
			t.Errorf("%s: got %+v, want %+v", tc.part, got, tc.want)
		}
	}
	if whole.Backends[0].Port != 8100 || whole.Draining[0].Port != 8100 {
		t.Errorf("the original was changed: %+v", whole)
	}
	fixed := &gateway.Forward{Frontend: gateway.Frontend{Ports: ports(100, 200)}, Backends: backend(80)}
	if got := fixed.WithPorts(ports(150, 200)); got.Backends[0].Port != 80 {
		t.Errorf("without Shift: %+v", got)
	}
}

func TestFindForward(t *testing.T) {
	v4, v6 := netip.MustParseAddr("198.51.100.10"), netip.MustParseAddr("2001:db8::10")
	forward := func(address netip.Addr, protocol gateway.Protocol, first, last uint16) *gateway.Forward {
		return &gateway.Forward{Frontend: gateway.Frontend{Address: address, Protocol: protocol, Ports: gateway.PortRange{First: first, Last: last}}}
	}
	forwards := []*gateway.Forward{forward(v4, gateway.TCP, 80, 80), forward(v4, gateway.TCP, 90, 99), forward(v4, gateway.UDP, 80, 80), forward(v6, gateway.TCP, 80, 80)}
	for _, tc := range []struct {
		name     string
		protocol gateway.Protocol
		to       string
		want     int // -1 is none
	}{
		{"a port", gateway.TCP, "198.51.100.10:80", 0},
		{"the first port of a range", gateway.TCP, "198.51.100.10:90", 1},
		{"the last port of a range", gateway.TCP, "198.51.100.10:99", 1},
		{"behind a range", gateway.TCP, "198.51.100.10:100", -1},
		{"between two", gateway.TCP, "198.51.100.10:81", -1},
		{"before the first", gateway.TCP, "198.51.100.10:79", -1},
		{"another protocol", gateway.UDP, "198.51.100.10:80", 2},
		{"a port of another protocol", gateway.UDP, "198.51.100.10:90", -1},
		{"IPv6", gateway.TCP, "[2001:db8::10]:80", 3},
		{"another address", gateway.TCP, "198.51.100.11:80", -1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := slices.Index(forwards, gateway.FindForward(forwards, tc.protocol, netip.MustParseAddrPort(tc.to)))
			if got != tc.want {
				t.Errorf("Forward %d, want %d", got, tc.want)
			}
		})
	}
	if f := gateway.FindForward(nil, gateway.TCP, netip.MustParseAddrPort("198.51.100.10:80")); f != nil {
		t.Errorf("no Forwards: %v", f)
	}
}
