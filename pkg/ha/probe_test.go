// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package ha

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/gateway"
)

func TestNeighbours(t *testing.T) {
	cfg := pair()
	state := gateway.State{Uplinks: []gateway.Uplink{
		{Link: "up0", Gateways: addrs("198.51.100.1", "2001:db8:1::1")}, {Link: "other0", Gateways: addrs("203.0.113.1")},
	}}
	route := func(link, via string) gateway.Route {
		return gateway.Route{Link: link, Gateway: netip.MustParseAddr(via)}
	}
	host := gateway.Host{Routes: []gateway.Route{
		route("in0.100", "10.10.0.12"), route("in0.100", "10.10.0.11"), route("in0.100", "10.10.0.11"), route("in0.100", "10.10.0.3"),
		route("in0.100", "fd00:10::11"), {Link: "in0.100"},
	}}
	// The peer is no neighbour, and neither is a host of a family in which this box has no address.
	if got, want := fmt.Sprint(Neighbours(cfg.HA, state, host)), "[{up0 198.51.100.1} {up0 2001:db8:1::1} {in0.100 10.10.0.11} {in0.100 10.10.0.12}]"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	for i := range 20 {
		host.Routes = append(host.Routes, route("in0.100", fmt.Sprintf("10.10.0.%d", 100+i)))
	}
	if got := Neighbours(cfg.HA, state, host); len(got) != 2+maxNeighbours {
		t.Errorf("%d neighbours", len(got))
	}
}

// TestGiveUp counts misses as they come, and decides by what the peer sees.
func TestGiveUp(t *testing.T) {
	router, node1, node2 := Neighbour{"up0", netip.MustParseAddr("198.51.100.1")}, Neighbour{"in0", netip.MustParseAddr("10.10.0.11")}, Neighbour{"in0", netip.MustParseAddr("10.10.0.12")}
	all := []Neighbour{router, node1, node2}
	after := func(rounds int, silent ...Neighbour) Misses {
		var m Misses
		for range rounds {
			m = m.Next(all, func(n Neighbour) bool {
				for _, s := range silent {
					if s == n {
						return false
					}
				}
				return true
			})
		}
		return m
	}
	everyone := addrs("198.51.100.1", "10.10.0.11", "10.10.0.12")
	for _, test := range []struct {
		name                         string
		misses                       Misses
		answering                    []netip.Addr
		suspicious, giveUp, giveUpIf bool // giveUpIf: without an answer of the peer
	}{
		{"all is well", after(9), nil, false, false, false},
		{"nothing to ask", Misses{}, nil, false, false, false},
		{"two misses", after(2, router), everyone, false, false, false},
		{"three misses of the router", after(3, router), everyone, true, true, false},
		{"the router died for both", after(3, router), addrs("10.10.0.11", "10.10.0.12"), true, false, false},
		{"the peer misses another one", after(3, router), addrs("198.51.100.1"), true, true, false},
		{"one of two nodes", after(9, node1), everyone, false, false, false},
		{"all nodes", after(3, node1, node2), everyone, true, true, false},
		{"all nodes, the peer sees one", after(3, node1, node2), addrs("10.10.0.11"), true, true, false},
		{"all nodes for both", after(3, node1, node2), addrs("198.51.100.1"), true, false, false},
		{"everything: this box is cut off", after(3, all...), everyone, true, true, true},
		{"everything for both", after(3, all...), nil, true, false, true},
		{"an answer after misses", after(5, router).Next(all, func(Neighbour) bool { return true }), nil, false, false, false},
	} {
		if got := test.misses.Suspicious(); got != test.suspicious {
			t.Errorf("%s: suspicious %v", test.name, got)
		}
		doubts := Doubts(nil)
		for _, questions := range []uint64{7, 8, 9} {
			peer := Facts{Answering: test.answering, Questions: questions}
			doubts = doubts.Next(test.misses, peer)
			if got, want := test.misses.GiveUp(&peer, doubts), test.giveUp && questions == 9; got != want {
				t.Errorf("%s, after %d questions: gives up %v", test.name, questions, got)
			}
		}
		if got := test.misses.GiveUp(nil, doubts); got != test.giveUpIf {
			t.Errorf("%s, no answer of the peer: gives up %v", test.name, got)
		}
	}
	for want, all := range map[bool][]Misses{true: {after(1, router), after(1, node1, node2)}, false: {after(9), after(9, node1), after(9, router).Next(all, func(Neighbour) bool { return true }), {}}} {
		for _, m := range all {
			if m.Doubtful() != want {
				t.Errorf("%v: doubtful is not %v", m, want)
			}
		}
	}
	m := after(1, node1).Next(all, func(n Neighbour) bool { return n == node2 })
	if got := fmt.Sprint(m.Answering(), m.Missed(), after(3, node1).Missed()); got != "[10.10.0.12] [] [10.10.0.11]" {
		t.Errorf("missed %s", got)
	}
}

// TestGiveUpOnlyByNewAnswers expects that a peer that stands still, or saw a neighbour before this box missed it, moves nothing.
func TestGiveUpOnlyByNewAnswers(t *testing.T) {
	router, node := Neighbour{"up0", netip.MustParseAddr("198.51.100.1")}, Neighbour{"in0", netip.MustParseAddr("10.10.0.11")}
	both := addrs("198.51.100.1", "10.10.0.11")
	lostRouter, lostAll := Misses{router: MaxMisses, node: 0}, Misses{router: MaxMisses, node: MaxMisses}
	type step struct {
		misses    Misses
		questions uint64
		answering []netip.Addr
		giveUp    bool
	}
	for name, steps := range map[string][]step{
		"stands still":       {{lostRouter, 50, both, false}, {lostRouter, 50, both, false}, {lostRouter, 51, both, false}, {lostRouter, 51, both, false}},
		"saw it before":      {{lostRouter, 50, both, false}, {lostRouter, 51, both, false}, {lostRouter, 52, addrs("10.10.0.11"), false}},
		"sees it":            {{lostRouter, 50, both, false}, {lostRouter, 52, both, true}, {lostRouter, 60, both, true}},
		"sees it again":      {{lostRouter, 50, nil, false}, {lostRouter, 60, both, true}},
		"started again":      {{lostRouter, 50, both, false}, {lostRouter, 3, both, false}, {lostRouter, 4, both, false}, {lostRouter, 5, both, true}},
		"another link later": {{lostRouter, 50, nil, false}, {lostRouter, 90, nil, false}, {lostAll, 90, addrs("10.10.0.11"), false}, {lostAll, 92, nil, false}},
		"asked in time":      {{Misses{router: 1, node: 0}, 50, both, false}, {Misses{router: 2, node: 0}, 51, both, false}, {lostRouter, 52, both, true}},
		"answered between":   {{Misses{router: 1, node: 0}, 50, both, false}, {Misses{router: 0, node: 0}, 51, both, false}, {lostRouter, 52, both, false}},
		"missed once more":   {{lostRouter, 50, nil, false}, {Misses{router: 0, node: 0}, 60, both, false}, {lostRouter, 70, both, false}, {lostRouter, 72, both, true}},
	} {
		doubts := Doubts(nil)
		for i, s := range steps {
			peer := Facts{Answering: s.answering, Questions: s.questions}
			doubts = doubts.Next(s.misses, peer)
			if got := s.misses.GiveUp(&peer, doubts); got != s.giveUp {
				t.Errorf("%s, step %d: gives up %v, want %v", name, i, got, s.giveUp)
			}
		}
	}
}

func TestProbeInterval(t *testing.T) {
	for advert, want := range map[time.Duration]time.Duration{
		10 * time.Millisecond: 50 * time.Millisecond, 60 * time.Millisecond: 60 * time.Millisecond, 100 * time.Millisecond: 100 * time.Millisecond, time.Second: 100 * time.Millisecond,
	} {
		if got := ProbeInterval(config.HA{AdvertInterval: advert}); got != want {
			t.Errorf("adverts of %s: %s, want %s", advert, got, want)
		}
	}
}
