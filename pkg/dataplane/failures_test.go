// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package dataplane_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/smartnat/smartnat/pkg/gateway"
)

// TestFailures makes every step fail once. All independent steps must succeed, and the next Apply must do the rest.
func TestFailures(t *testing.T) {
	want := fresh(t, full())
	steps := slices.Concat([]string{"observe routes", "observe sets", "IPv4 save", "IPv6 save", "end connections"}, want.Journal)
	for _, failing := range steps {
		t.Run(failing, func(t *testing.T) {
			k := newKernel()
			d := start(k)
			broken := errors.New("broken for the test")
			k.Fail = func(step string) error {
				if step == failing {
					return broken
				}
				return nil
			}
			result, err := d.Apply(t.Context(), full())
			if !errors.Is(err, broken) {
				t.Errorf("err = %v, want the injected one", err)
			}
			if result.Empty() {
				t.Error("no other step was done")
			}
			for _, step := range want.Journal {
				if !dependsOn(step, failing) && !slices.Contains(k.Journal, step) {
					t.Errorf("not done: %s", step)
				}
			}
			k.Fail = nil
			if result := apply(t, d, full()); len(result.Repaired) > 0 {
				t.Errorf("a failed step is reported as a repair: %q", result.Repaired)
			}
			expectSame(t, want, k)
		})
	}
}

// TestBackAfterFailure expects that returning to the state before undoes a change that failed halfway.
func TestBackAfterFailure(t *testing.T) {
	for _, failing := range fresh(t, full()).Journal {
		t.Run(failing, func(t *testing.T) {
			k := newKernel()
			d := start(k)
			apply(t, d, gateway.State{})
			broken := errors.New("broken for the test")
			k.Fail = func(step string) error {
				if step == failing {
					return broken
				}
				return nil
			}
			_, err := d.Apply(t.Context(), full())
			if set := failing == "sysctl net/ipv4/ip_forward=1"; set != (err == nil) { // the state before sets it already
				t.Errorf("err = %v", err)
			}
			k.Fail = nil
			apply(t, d, gateway.State{})
			expectSame(t, fresh(t, gateway.State{}), k)
		})
	}
}

// dependsOn reports whether a step needs the other step.
func dependsOn(step, on string) bool {
	family, _, isFamily := strings.Cut(on, " ")
	switch {
	case step == on:
		return true
	case on == "observe routes":
		return strings.HasPrefix(step, "ip ")
	case strings.HasPrefix(family, "IPv") && isFamily:
		// Forwarding waits for the boundary.
		return strings.HasPrefix(step, family+" ") || strings.HasPrefix(step, "sysctl net/"+strings.ToLower(family))
	case strings.Contains(on, "accept_ra"): // or the host would forget its default route
		return strings.Contains(step, "net/ipv6/conf/all/forwarding")
	case strings.Contains(on, "route add 1") || strings.Contains(on, "route add 2"): // the network of a gateway
		return strings.Contains(step, " default via ")
	}
	return false
}
