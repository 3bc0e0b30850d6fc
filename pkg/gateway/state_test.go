// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package gateway_test

import (
	"net/netip"
	"reflect"
	"testing"

	"github.com/smartnat/smartnat/pkg/gateway"
)

// TestForwardsWithAnyOtherFieldDiffer changes each field in turn: none that is new may be forgotten.
func TestForwardsWithAnyOtherFieldDiffer(t *testing.T) {
	changed := map[reflect.Type]any{
		reflect.TypeFor[gateway.Frontend]():  gateway.Frontend{Protocol: gateway.UDP},
		reflect.TypeFor[[]netip.Prefix]():    []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")},
		reflect.TypeFor[[]gateway.Backend](): []gateway.Backend{{Port: 80}},
	}
	for _, field := range reflect.VisibleFields(reflect.TypeFor[gateway.Forward]()) {
		if len(field.Index) > 1 || field.Name == "AllowedBy" {
			continue // of the Frontend, or nothing that the kernel depends on
		}
		var same, other gateway.Forward
		if !gateway.EqualForwards(&same, &gateway.Forward{}) {
			t.Fatal("equal Forwards differ")
		}
		switch value := reflect.ValueOf(&other).Elem().FieldByIndex(field.Index); value.Kind() {
		case reflect.Bool:
			value.SetBool(true)
		case reflect.String:
			value.SetString("x")
		case reflect.Int64:
			value.SetInt(1)
		default:
			to, known := changed[field.Type]
			if !known {
				t.Fatalf("the test knows no other %s for %s", field.Type, field.Name)
			}
			value.Set(reflect.ValueOf(to))
		}
		if gateway.EqualForwards(&same, &other) {
			t.Errorf("Forwards with another %s are equal", field.Name)
		}
	}
	if !gateway.EqualForwards(&gateway.Forward{AllowedBy: &gateway.Allowance{Grant: "web"}}, &gateway.Forward{}) {
		t.Error("a grant of another name makes Forwards differ")
	}
}

// TestHides lists which clients from an uplink are masqueraded.
func TestHides(t *testing.T) {
	local, remote := netip.MustParseAddr("10.244.1.2"), netip.MustParseAddr("10.244.2.2")
	for name, tc := range map[string]struct {
		masquerade, onNode bool
		toLocal, toRemote  bool
	}{
		"masqueraded":           {masquerade: true, toLocal: true, toRemote: true},
		"masqueraded on a node": {masquerade: true, onNode: true, toLocal: true, toRemote: true},
		"kept":                  {},
		"kept on a node":        {onNode: true, toRemote: true},
	} {
		t.Run(name, func(t *testing.T) {
			f := &gateway.Forward{Masquerade: tc.masquerade}
			s := gateway.State{MasqueradeRemote: tc.onNode, LocalBackends: []netip.Addr{netip.MustParseAddr("10.244.1.1"), local, netip.MustParseAddr("fd00::1")}}
			if toLocal, toRemote := s.Hides(f, local), s.Hides(f, remote); toLocal != tc.toLocal || toRemote != tc.toRemote {
				t.Errorf("hidden from the pod of this node: %t, from another one: %t", toLocal, toRemote)
			}
		})
	}
}
