// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package dataplane_test

import (
	"strings"
	"syscall"
	"testing"

	"github.com/smartnat/smartnat/pkg/gateway"
)

// TestIdleFlows expects connections to stay in a flowtable for half the time of conntrack, and a host where that cannot be set to work
// without.
func TestIdleFlows(t *testing.T) {
	const key, established = "net/netfilter/nf_flowtable_tcp_timeout", "net/netfilter/nf_conntrack_tcp_timeout_established"
	with := gateway.State{Uplinks: []gateway.Uplink{uplink1}, Flowtable: gateway.Flowtable{Families: gateway.Families{IPv4: true}, Links: []gateway.FlowLink{{Name: "eth1", Index: 2}}}}
	without := gateway.State{Uplinks: []gateway.Uplink{uplink1}}
	k := newKernel()
	v := k.Sysctls.Values
	for _, step := range []struct {
		name, was, established string
		state                  gateway.State
		err                    error
		want                   string
	}{
		{name: "the kernel has no conntrack", state: with},
		{name: "the kernel has no flowtables", established: "432000", state: with},
		{name: "the defaults of the kernel", was: "30", established: "432000", state: with, want: "216000"},
		{name: "shorter than a minute", was: "30", established: "40", state: with, want: "20"},
		{name: "no number", was: "30", established: "x", state: with, want: "30"},
		{name: "read-only", was: "30", established: "432000", state: with, err: syscall.EROFS, want: "30"},
		{name: "no flowtable", was: "30", established: "432000", state: without, want: "30"},
	} {
		for name, value := range map[string]string{key: step.was, established: step.established} {
			if delete(v, name); value != "" {
				v[name] = value
			}
		}
		k.Fail = func(what string) error {
			if strings.Contains(what, key) {
				return step.err
			}
			return nil
		}
		d := start(k)
		apply(t, d, step.state)
		expectQuiet(t, d, step.state)
		if v[key] != step.want {
			t.Errorf("%s: %q, want %q", step.name, v[key], step.want)
		}
	}
	k.Fail = nil
	v[key], v[established] = "30", "432000"
	d := start(k)
	apply(t, d, with)
	apply(t, d, without)
	if v[key] != "30" {
		t.Errorf("%q without a flowtable any more", v[key])
	}
}
