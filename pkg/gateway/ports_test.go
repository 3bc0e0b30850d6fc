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
