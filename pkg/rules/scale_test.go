// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/netfilter"
)

// dense is one address with as many ports, side by side, each with three endpoints.
func dense(ports int) gateway.State {
	state := gateway.State{Uplinks: uplinks}
	for i := range ports {
		f := forward(netfilter.IPv4, 1, gateway.TCP, uint16(1+i), uint16(1+i), backends(netfilter.IPv4, 3, 8080))
		f.Owner = fmt.Sprintf("default/echo-%d", i)
		state.Forwards = append(state.Forwards, f)
	}
	return state
}

// cost is what a set of rules costs. Its figures are exact, so that a change of them is seen and meant.
type cost struct {
	Chains, Rules, Bytes int
	// Worst is how many rules the first packet meets at most, in all tables; Mean is over all ports and endpoints.
	Worst int
	Mean  string
	// ChangeChains and ChangeBytes are the largest of some batches for one endpoint that goes.
	ChangeChains, ChangeBytes int
}

// withAll turns on all that makes first packets meet more rules, and many pods leave.
func withAll(state gateway.State) gateway.State {
	state.ClampMSS = true
	for n := range 4 {
		e := gateway.Egress{Address: external(netfilter.IPv4, n), Uplink: 1 + n%2}
		for i := range 50 {
			e.Sources = append(e.Sources, inside(netfilter.IPv4, 1+50*n+i))
		}
		state.Egresses = append(state.Egresses, e)
	}
	return state
}

func measure(t *testing.T, state gateway.State) cost {
	t.Helper()
	rs := Build(state, netfilter.IPv4, options)
	batch := netfilter.Diff(netfilter.Ruleset{}, rs, options.Ownership.ChainPrefix)
	c := cost{Chains: batch.Chains(), Rules: batch.Rules(), Bytes: len(batch.Text())}
	tracer := netfilter.NewTracer(rs)
	sum, packets := 0, 0
	for _, f := range state.Forwards {
		for n := range f.Backends {
			p := packet(netfilter.IPv4, source(netfilter.IPv4, 0).Addr(), f.Address, f.Protocol, f.Ports.First)
			p.Chance = pick(n)
			trace := tracer.Trace(p)
			judge(t, gateway.State{Uplinks: state.Uplinks, Forwards: []gateway.Forward{f}}, p, n, trace)
			c.Worst = max(c.Worst, trace.Rules)
			sum += trace.Rules
			packets++
		}
	}
	c.Mean = fmt.Sprintf("%.1f", float64(sum)/float64(packets))
	for i := 0; i < len(state.Forwards); i += 1 + len(state.Forwards)/8 {
		all := state.Forwards[i].Backends
		state.Forwards[i].Backends = all[1:]
		change := netfilter.Diff(rs, Build(state, netfilter.IPv4, options), options.Ownership.ChainPrefix)
		state.Forwards[i].Backends = all
		c.ChangeChains = max(c.ChangeChains, change.Chains())
		c.ChangeBytes = max(c.ChangeBytes, len(change.Text()))
	}
	return c
}

func TestCost(t *testing.T) {
	for _, tc := range []struct {
		name  string
		state gateway.State
		want  cost
	}{
		{"10", dense(10), cost{Chains: 15, Rules: 70, Bytes: 7039, Worst: 25, Mean: "18.3", ChangeChains: 1, ChangeBytes: 1660}},
		{"1000", dense(1000), cost{Chains: 263, Rules: 3288, Bytes: 459038, Worst: 31, Mean: "25.5", ChangeChains: 1, ChangeBytes: 2081}},
		{"10000", dense(10000), cost{Chains: 2513, Rules: 32538, Bytes: 4611553, Worst: 35, Mean: "29.1", ChangeChains: 1, ChangeBytes: 1795}},
		{"10000 with all", withAll(dense(10000)), cost{Chains: 2568, Rules: 33001, Bytes: 4649841, Worst: 39, Mean: "33.1", ChangeChains: 1, ChangeBytes: 1795}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := measure(t, tc.state)
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
			if got.Worst > 40 || got.ChangeChains > 3 {
				t.Errorf("%d rules met and %d chains changed, want at most 40 and 3", got.Worst, got.ChangeChains)
			}
		})
	}
}

func BenchmarkBuild(b *testing.B) {
	state := dense(10000)
	for b.Loop() {
		Build(state, netfilter.IPv4, options)
	}
}

func BenchmarkDiff(b *testing.B) {
	have, want := Build(dense(10000), netfilter.IPv4, options), Build(dense(10000), netfilter.IPv4, options)
	for b.Loop() {
		if batch := netfilter.Diff(have, want, options.Ownership.ChainPrefix); !batch.Empty() {
			b.Fatal("not equal")
		}
	}
}

func BenchmarkParse(b *testing.B) {
	// What would be written becomes what would be saved.
	saved := strings.NewReplacer("*nat\n", "*nat\n:PREROUTING - [0:0]\n:OUTPUT - [0:0]\n:POSTROUTING - [0:0]\n",
		"-I PREROUTING 1", "-A PREROUTING", "-I OUTPUT 1", "-A OUTPUT", "-I POSTROUTING 1", "-A POSTROUTING")
	nat := Build(dense(10000), netfilter.IPv4, options).Tables[2:]
	text := []byte(saved.Replace(string(netfilter.Render(netfilter.Ruleset{Tables: nat}))))
	for b.Loop() {
		if _, err := netfilter.Parse(netfilter.IPv4, text); err != nil {
			b.Fatal(err)
		}
	}
}
