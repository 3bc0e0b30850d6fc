// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"fmt"
	"math"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/iptables/ruleset"
)

func manyBackends(n int, affinity time.Duration) gateway.State {
	f := forward(gateway.IPv4, 1, gateway.TCP, 80, 80, backends(gateway.IPv4, n, 8080))
	f.Affinity = affinity
	return gateway.State{Uplinks: uplinks, Forwards: []*gateway.Forward{f}}
}

// choice is the cost of selecting one of many backends, in exact figures.
type choice struct {
	Chains, Rules, Bytes int
	// Worst and Mean are the number of rules that a first packet meets, in all tables.
	Worst int
	Mean  string
}

func TestBackendsShareEvenly(t *testing.T) {
	for _, tc := range []struct {
		backends int
		affinity time.Duration
		want     choice
	}{
		{1, 0, choice{Chains: 16, Rules: 48, Bytes: 3352, Worst: 16, Mean: "16.0"}},
		{3, time.Hour, choice{Chains: 16, Rules: 53, Bytes: 4361, Worst: 21, Mean: "20.0"}},
		{16, 0, choice{Chains: 16, Rules: 63, Bytes: 5504, Worst: 31, Mean: "23.5"}},
		{17, 0, choice{Chains: 17, Rules: 65, Bytes: 5876, Worst: 33, Mean: "25.0"}},
		{33, 0, choice{Chains: 19, Rules: 83, Bytes: 8036, Worst: 37, Mean: "26.5"}},
		{100, 0, choice{Chains: 21, Rules: 152, Bytes: 17252, Worst: 47, Mean: "31.6"}},
		{100, time.Hour, choice{Chains: 21, Rules: 252, Bytes: 42128, Worst: 147, Mean: "131.6"}},
		{1000, 0, choice{Chains: 64, Rules: 1095, Bytes: 144058, Worst: 76, Mean: "48.4"}},
		{5000, 0, choice{Chains: 254, Rules: 5285, Bytes: 709619, Worst: 265, Mean: "132.0"}},
	} {
		t.Run(fmt.Sprintf("%d/%v", tc.backends, tc.affinity), func(t *testing.T) {
			state := manyBackends(tc.backends, tc.affinity)
			rs := Build(state, gateway.IPv4, options)
			batch := ruleset.Diff(ruleset.Ruleset{}, rs, options.Ownership.ChainPrefix)
			got := choice{Chains: batch.Chains(), Rules: batch.Rules(), Bytes: len(batch.Text())}
			shares, mean := map[netip.AddrPort]float64{}, 0.0
			p := firstPacket(gateway.IPv4, source(gateway.IPv4, 0).Addr(), state.Forwards[0].Address, gateway.TCP, 80)
			for trace := range ruleset.NewTracer(rs).Outcomes(p) {
				shares[trace.Packet.Destination] += trace.Probability
				mean += trace.Probability * float64(trace.Rules)
				got.Worst = max(got.Worst, trace.Rules)
			}
			got.Mean = fmt.Sprintf("%.1f", mean)
			for _, b := range state.Forwards[0].Backends {
				share := shares[netip.AddrPortFrom(b.Address, b.Port)] * float64(tc.backends)
				// A probability is a multiple of 1/2^31.
				if math.Abs(share-1) > 1e-5 {
					t.Errorf("%s has %.7f of its share", b.Address, share)
				}
			}
			if len(shares) != tc.backends {
				t.Errorf("connections lead to %d places, want %d", len(shares), tc.backends)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestBackendThatComesOrGoes adds one backend to many numbers of backends, including all small ones, for which the chains
// change most.
func TestBackendThatComesOrGoes(t *testing.T) {
	for _, tc := range []struct {
		affinity time.Duration
		// chains and rules are the maximum that one batch rewrites.
		chains, rules int
	}{
		{0, 3, 71},
		{time.Hour, 3, 1057},
	} {
		t.Run(fmt.Sprint(tc.affinity), func(t *testing.T) {
			chains, rules := 0, 0
			for n := 2; n <= 1000; n += 1 + n/50 {
				before := Build(manyBackends(n-1, tc.affinity), gateway.IPv4, options)
				after := Build(manyBackends(n, tc.affinity), gateway.IPv4, options)
				for _, batch := range []ruleset.Batch{
					ruleset.Diff(before, after, options.Ownership.ChainPrefix),
					ruleset.Diff(after, before, options.Ownership.ChainPrefix),
				} {
					if batch.Chains() > 3 {
						t.Fatalf("with %d backends, adding or removing one rewrites %d chains", n, batch.Chains())
					}
					chains, rules = max(chains, batch.Chains()), max(rules, batch.Rules())
				}
			}
			if chains != tc.chains || rules != tc.rules {
				t.Errorf("at most %d chains and %d rules in a batch, want %d and %d", chains, rules, tc.chains, tc.rules)
			}
		})
	}
}
