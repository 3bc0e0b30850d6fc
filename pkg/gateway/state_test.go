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
		if len(field.Index) > 1 {
			continue // of the Frontend
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
}
