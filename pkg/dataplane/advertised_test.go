// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package dataplane_test

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/smartnat/smartnat/pkg/gateway"
)

// TestAdvertisedPrefixes expects that an uplink with its own IPv6 networks ignores the prefixes of router advertisements, and
// does so before the host accepts advertisements although it forwards.
func TestAdvertisedPrefixes(t *testing.T) {
	const pinfo, routes = "net/ipv6/conf/eth1/accept_ra_pinfo", "net/ipv6/conf/eth1/accept_ra_rt_info_max_plen"
	four := gateway.State{Forwards: []*gateway.Forward{forward("198.51.100.10", 8080, "10.244.1.2")}, OwnPrefixes: []string{"eth1"}}
	six := gateway.State{Forwards: []*gateway.Forward{forward("2001:db8:1::10", 8080, "fd00:244:1::2")}, OwnPrefixes: []string{"eth1", "gone"}}
	auto := six
	auto.OwnPrefixes = nil
	expectParameters := func(t *testing.T, values map[string]string, wantPinfo, wantRoutes string) {
		t.Helper()
		if values[pinfo] != wantPinfo || values[routes] != wantRoutes {
			t.Errorf("accept_ra_pinfo %s, accept_ra_rt_info_max_plen %s; want %s, %s", values[pinfo], values[routes], wantPinfo, wantRoutes)
		}
	}
	for name, forwards := range map[string]string{"we enable forwarding": "0", "the host forwards already": "1"} {
		t.Run(name, func(t *testing.T) {
			k := newKernel()
			k.Sysctls.Values["net/ipv6/conf/all/forwarding"] = forwards
			before := maps.Clone(k.Sysctls.Values)
			d := start(k)
			apply(t, d, four)
			expectParameters(t, k.Sysctls.Values, "1", "64")
			apply(t, d, six)
			expectParameters(t, k.Sysctls.Values, "0", "0")
			if k.Sysctls.Values["net/ipv6/conf/eth2/accept_ra_pinfo"] != "1" {
				t.Error("a link that is not in OwnPrefixes was changed")
			}
			expectQuiet(t, d, six)
			ignores := slices.Index(k.Journal, "sysctl "+pinfo+"=0")
			listens := slices.Index(k.Journal, "sysctl net/ipv6/conf/eth1/accept_ra=2")
			if listens >= 0 && ignores > listens {
				t.Error("the host accepts advertisements before it ignores their prefixes")
			}
			// sysctl --system sets it again.
			k.Sysctls.Values[pinfo] = "1"
			expectChanged(t, d, true)
			expectRepair(t, apply(t, d, six), []string{"sysctl " + pinfo + "=0: it was 1"})
			apply(t, d, auto)
			expectParameters(t, k.Sysctls.Values, "1", "64")
			apply(t, d, six)
			if _, err := d.Cleanup(t.Context()); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(before, k.Sysctls.Values); diff != "" {
				t.Errorf("cleanup (-before +after):\n%s", diff)
			}
		})
	}
}

// TestAdvertisedPrefixesInAContainer cannot write parameters, as in a pod on a node. That is none of the State's matter if the link accepts no
// advertisement at all.
func TestAdvertisedPrefixesInAContainer(t *testing.T) {
	const link = "net/ipv6/conf/eth1/"
	state := gateway.State{Forwards: []*gateway.Forward{forward("2001:db8:1::10", 8080, "fd00:244:1::2")}, OwnPrefixes: []string{"eth1"}}
	for _, test := range []struct {
		name, accepts, forwards string
		err                     error
		fails                   bool
	}{
		{"a router", "1", "1", syscall.EROFS, false},
		{"a router that listens to others", "2", "1", syscall.EROFS, true},
		{"never", "0", "0", syscall.EROFS, false},
		{"a host", "1", "0", syscall.EROFS, true},
		{"another error", "1", "1", syscall.EIO, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			k := newKernel()
			for key := range k.Sysctls.Values { // a node forwards, and no strict filter is in the way
				if strings.HasSuffix(key, "/accept_ra") {
					k.Sysctls.Values[key] = "2"
				}
			}
			k.Sysctls.Values["net/ipv6/conf/all/forwarding"] = "1"
			k.Sysctls.Values[link+"accept_ra"], k.Sysctls.Values[link+"forwarding"] = test.accepts, test.forwards
			k.Fail = func(step string) error {
				if strings.Contains(step, link+"accept_ra_") {
					return test.err
				}
				return nil
			}
			d := start(k)
			if _, err := d.Apply(t.Context(), state); (err != nil) != test.fails || err != nil && !errors.Is(err, test.err) {
				t.Fatalf("error %v, want one: %t", err, test.fails)
			}
			if !test.fails {
				expectQuiet(t, d, state)
			}
		})
	}
}
