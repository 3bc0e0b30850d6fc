// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package calc_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/pkg/calc"
	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/gateway"
)

// TestEndpointsAreTheSameHoweverTheyAreSliced distributes a thousand endpoints over ten or more slices, some of them to several
// with different conditions. The State must equal that of a single slice.
func TestEndpointsAreTheSameHoweverTheyAreSliced(t *testing.T) {
	const endpoints = 1000
	one := badInput{}.snapshot(t)
	all := one.EndpointSlices[0]
	all.Endpoints = nil
	for i := range endpoints {
		all.Endpoints = append(all.Endpoints, endpointOf(i))
	}
	cfg := config.Default()
	cfg.AnyAddress = true
	want, findings := calc.Calculate(one, gateway.Host{}, cfg)
	if len(findings) > 0 {
		t.Fatal(findings)
	}
	checkState(t, want, cfg)
	forward := forwardOf(t, want, "default/bad")
	// Of ten endpoints one drains and one terminates, which does not count while others are ready.
	if len(forward.Backends) != endpoints*8/10 || len(forward.Draining) != endpoints*2/10 {
		t.Fatalf("%d backends, %d draining", len(forward.Backends), len(forward.Draining))
	}

	random := rand.New(rand.NewPCG(1, 2))
	for range 20 {
		dealt := one
		dealt.EndpointSlices = append(deal(random, all), one.EndpointSlices[1:]...)
		got, findings := calc.Calculate(dealt, gateway.Host{}, cfg)
		if diff := cmp.Diff(want, got, addresses); diff != "" || len(findings) > 0 {
			t.Fatalf("(-one slice +%d slices):\n%s%s", len(dealt.EndpointSlices), diff, findings)
		}
	}
}

func endpointOf(i int) discoveryv1.Endpoint {
	e := discoveryv1.Endpoint{Addresses: []string{fmt.Sprintf("10.244.%d.%d", i/250, i%250+1)}}
	switch i % 10 {
	case 0:
		e.Conditions = discoveryv1.EndpointConditions{Ready: new(false), Serving: new(true), Terminating: new(true)}
	case 1:
		e.Conditions = discoveryv1.EndpointConditions{Ready: new(false)}
	case 2:
		e.Conditions = discoveryv1.EndpointConditions{Ready: new(true), Serving: new(true), Terminating: new(false)}
	}
	return e
}

// deal puts each endpoint into one of several slices, and every seventh also into another one that is behind or ahead.
func deal(random *rand.Rand, all *discoveryv1.EndpointSlice) []*discoveryv1.EndpointSlice {
	dealt := make([]*discoveryv1.EndpointSlice, 10+random.IntN(20))
	for i := range dealt {
		s := *all
		s.Name, s.Endpoints = fmt.Sprintf("bad-%d", i), nil
		dealt[i] = &s
	}
	put := func(e discoveryv1.Endpoint) {
		s := dealt[random.IntN(len(dealt))]
		s.Endpoints = append(s.Endpoints, e)
	}
	for i, e := range all.Endpoints {
		put(e)
		if i%7 == 0 {
			put(discoveryv1.Endpoint{Addresses: e.Addresses, Conditions: discoveryv1.EndpointConditions{Ready: new(false), Serving: new(false)}})
		}
	}
	shuffle(random, dealt)
	return dealt
}

func forwardOf(t *testing.T, state gateway.State, owner string) *gateway.Forward {
	t.Helper()
	i := slices.IndexFunc(state.Forwards, func(f *gateway.Forward) bool { return f.Owner == owner })
	if i < 0 {
		t.Fatalf("%s has nothing in effect", owner)
	}
	return state.Forwards[i]
}

// TestEgressTakeover removes the oldest Mapping, and then the address of the next one: the pod leaves as the next Mapping says.
func TestEgressTakeover(t *testing.T) {
	snapshot, host, cfg := readScenario(t, "testdata/egress")
	for _, m := range snapshot.Mappings {
		m.Spec.ServiceName, m.Spec.Egress = "more", true
		m.Spec.Mode = v1alpha1.ModeService
	}
	slices.SortFunc(snapshot.Mappings, func(a, b *v1alpha1.Mapping) int { return a.CreationTimestamp.Compare(b.CreationTimestamp.Time) })
	snapshot.Mappings = slices.DeleteFunc(snapshot.Mappings, func(m *v1alpha1.Mapping) bool { return m.CreationTimestamp == metav1.Time{} })
	leavesAs := func() string {
		state, _ := calc.Calculate(snapshot, host, cfg)
		checkState(t, state, cfg)
		for _, e := range state.Egresses {
			if slices.Contains(e.Sources, netip.MustParseAddr("10.244.1.10")) {
				return fmt.Sprintf("%s by %d for %s", e.Address, e.Uplink, e.Owner)
			}
		}
		return "none"
	}
	for _, want := range []string{
		"203.0.113.10 by 2 for default/dual", "203.0.113.10 by 2 for default/same-pods-same-address", "198.51.100.11 by 1 for default/some-pods-are-taken",
	} {
		if got := leavesAs(); got != want {
			t.Errorf("the pod leaves as %s, want %s", got, want)
		}
		snapshot.Mappings = snapshot.Mappings[1:]
	}
	if got := leavesAs(); got != "none" {
		t.Errorf("the pod leaves as %s after all Mappings are gone", got)
	}
	snapshot, host, cfg = readScenario(t, "testdata/egress")
	host.Links[1].Addresses = nil // eth2 loses 203.0.113.10
	if got, want := leavesAs(), "198.51.100.10 by 1 for default/dual"; got != want {
		t.Errorf("the pod leaves as %s once the address went, want %s", got, want)
	}
}
