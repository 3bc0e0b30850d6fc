// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package conntrack

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/smartnat/smartnat/pkg/gateway"
)

// some returns a sorted State that has much in common with other results.
func some(r *rand.Rand) gateway.State {
	var state gateway.State
	for _, address := range []string{"198.51.100.10", "198.51.100.11", "2001:db8:1::10"} {
		for _, protocol := range []gateway.Protocol{tcp, udp} {
			for port := uint16(1); port < 12; port += 3 {
				f := &gateway.Forward{Frontend: gateway.Frontend{
					Address: netip.MustParseAddr(address), Protocol: protocol, Ports: gateway.PortRange{First: port, Last: port + uint16(r.IntN(2))},
				}}
				f.Backends = []gateway.Backend{{Address: f.Address.Next(), Port: 80}, {Address: f.Address.Next(), Port: 81}}[:r.IntN(3)]
				f.Shift = r.IntN(9) == 0
				if r.IntN(3) > 0 {
					state.Forwards = append(state.Forwards, f)
				}
			}
		}
	}
	slices.SortFunc(state.Forwards, func(a, b *gateway.Forward) int {
		return cmp.Or(a.Address.Compare(b.Address), strings.Compare(string(a.Protocol), string(b.Protocol)), cmp.Compare(a.Ports.First, b.Ports.First))
	})
	for pod := range 3 {
		if r.IntN(2) == 0 {
			e := egress(public, fmt.Sprintf("10.244.1.%d", pod)).Egresses[0]
			if r.IntN(4) == 0 {
				e.Address = e.Address.Next()
			}
			if r.IntN(3) == 0 {
				state.Absent.Egresses = append(state.Absent.Egresses, e)
			} else {
				state.Egresses = append(state.Egresses, e)
			}
		}
	}
	return leavesOrReturns(r, state)
}

// leavesOrReturns moves random addresses away from this host or back.
func leavesOrReturns(r *rand.Rand, state gateway.State) gateway.State {
	leaves := map[netip.Addr]bool{}
	all := everywhere(state)
	state.Forwards, state.Absent.Forwards = nil, nil
	for _, f := range all {
		if _, known := leaves[f.Address]; !known {
			leaves[f.Address] = r.IntN(3) == 0
		}
		if leaves[f.Address] {
			state.Absent.Forwards = append(state.Absent.Forwards, f)
		} else {
			state.Forwards = append(state.Forwards, f)
		}
	}
	return state
}

// TestWhatChanged compares the single walk over both lists with a check of each Forward separately.
func TestWhatChanged(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 3))
	before := some(r)
	found := map[string]int{}
	for step := range 2000 {
		after := some(r)
		if r.IntN(3) > 0 { // a small change
			after = before
			after.Forwards = slices.Clone(before.Forwards)
			for range r.IntN(4) {
				if len(after.Forwards) > 0 {
					i := r.IntN(len(after.Forwards))
					changed := *after.Forwards[i]
					f := &changed
					after.Forwards[i] = f
					switch r.IntN(3) {
					case 0:
						f.Draining = []gateway.Backend{{Address: f.Address, Port: uint16(step)}}
					case 1:
						f.Draining, f.Backends = f.Backends, nil
					default:
						f.Backends, f.Draining = slices.Concat(f.Backends, f.Draining), nil
					}
				}
			}
			if r.IntN(2) == 0 {
				after = leavesOrReturns(r, after)
			}
		}
		stale, missed := eachByItself(before, after)
		got := changedSince(&before, after)
		for name, lists := range map[string][2][]scope{"stale": {stale, got.stale}, "missed": {missed, got.missed}} {
			want := lists[0]
			slices.SortFunc(want, compareScopes)
			slices.SortFunc(lists[1], compareScopes)
			if diff := gocmp.Diff(want, lists[1], gocmp.Comparer(func(a, b scope) bool { return a == b })); diff != "" {
				t.Fatalf("step %d: %s (-want +got):\n%s", step, name, diff)
			}
			found[name] += len(want)
		}
		for _, a := range after.Forwards {
			i := slices.IndexFunc(before.Forwards, func(b *gateway.Forward) bool { return a.Frontend == b.Frontend })
			if i >= 0 && !slices.Equal(a.Backends, before.Forwards[i].Backends) && !slices.Contains(stale, toFrontend(a.Frontend)) {
				found["let be"]++
			}
		}
		before = after
	}
	if found["stale"] < 100 || found["missed"] < 100 || found["let be"] < 100 {
		t.Errorf("too few findings: %v", found)
	}
}

func compareScopes(a, b scope) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) }

// eachByItself checks for each connection that the State before may have made whether the new one keeps it.
func eachByItself(before, after gateway.State) (stale, missed []scope) {
	j := newJudge(after)
	now := everywhere(after)
	for _, b := range everywhere(before) {
		i := slices.IndexFunc(now, func(a *gateway.Forward) bool { return a.Frontend == b.Frontend })
		wrong := i < 0 || now[i].Shift != b.Shift
		backends := b.Backends
		if b.Protocol == tcp {
			backends = slices.Concat(backends, b.Draining)
		}
		for port := b.Ports.First; port <= b.Ports.Last; port++ {
			for _, backend := range backends {
				if b.Shift {
					backend.Port += port - b.Ports.First
				}
				wrong = wrong || !j.keeps(flow{
					protocol: b.Protocol, source: netip.AddrPortFrom(b.Address.Next(), 1), destination: netip.AddrPortFrom(b.Address, port),
					answeredBy: netip.AddrPortFrom(backend.Address, backend.Port),
				})
			}
		}
		if wrong {
			stale = append(stale, toFrontend(b.Frontend))
		}
	}
	for _, a := range after.Forwards {
		if a.Protocol == udp && len(a.Backends) > 0 &&
			!slices.ContainsFunc(before.Forwards, func(b *gateway.Forward) bool { return a.Frontend == b.Frontend && len(b.Backends) > 0 }) {
			missed = append(missed, toFrontend(a.Frontend))
		}
	}
	for pod, external := range egressAddresses(before) {
		if egressAddresses(after)[pod] != external {
			stale = append(stale, scope{source: pod})
		}
	}
	return stale, missed
}

// TestNothingChanged expects that comparing equal States allocates no memory, if no address is absent.
func TestNothingChanged(t *testing.T) {
	state := some(rand.New(rand.NewPCG(1, 1)))
	state.Forwards, state.Absent = everywhere(state), gateway.Absent{}
	if n := testing.AllocsPerRun(10, func() {
		if c := changedSince(&state, state); len(c.stale)+len(c.missed) > 0 {
			t.Errorf("%v changed", c)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestManyScopesAreOne(t *testing.T) {
	at := func(protocol gateway.Protocol, address string, port uint16) scope {
		return scope{protocol: protocol, destination: netip.MustParseAddr(address), port: port}
	}
	pod := scope{source: netip.MustParseAddr("10.244.1.2")}
	for _, tc := range []struct {
		name   string
		most   int
		scopes []scope
		want   []scope
	}{
		{"none", 1, nil, nil},
		{"as many as may be", 2, []scope{at(tcp, public, 80), at(udp, public, 81)}, []scope{at(tcp, public, 80), at(udp, public, 81)}},
		{"ports", 1, []scope{at(tcp, public, 80), at(tcp, public, 81), at(tcp, public, 82)}, []scope{at(tcp, public, 0)}},
		{"protocols", 1, []scope{at(tcp, public, 80), at(udp, public, 80)}, []scope{at("", public, 0)}},
		{"addresses", 1, []scope{at(tcp, public, 80), at(tcp, "198.51.100.11", 80)}, []scope{{}}},
		{"a connection of a pod", 1, []scope{at(tcp, public, 80), pod}, []scope{{}}},
	} {
		if diff := gocmp.Diff(tc.want, atMost(tc.most, tc.scopes), gocmp.Comparer(func(a, b scope) bool { return a == b })); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tc.name, diff)
		}
	}
}

func BenchmarkWhatChanged(b *testing.B) {
	for _, ports := range []int{10_000, 30_000} {
		b.Run(fmt.Sprint(ports), func(b *testing.B) {
			var state gateway.State
			for i := range ports {
				state.Forwards = append(state.Forwards, forward(public, tcp, uint16(1+i), uint16(1+i), pod1, pod2))
			}
			other := gateway.State{Forwards: slices.Clone(state.Forwards)}
			other.Forwards[ports/2] = forward(public, tcp, uint16(1+ports/2), uint16(1+ports/2), pod1)
			b.ReportAllocs()
			for b.Loop() {
				if c := changedSince(&state, other); len(c.stale) != 1 {
					b.Fatalf("%v changed", c)
				}
			}
		})
	}
}
