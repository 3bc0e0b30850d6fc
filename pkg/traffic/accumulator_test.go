// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/smartnat/smartnat/pkg/gateway"
)

func forward(owner string, first, last uint16) *gateway.Forward {
	return &gateway.Forward{Owner: owner, Frontend: gateway.Frontend{
		Address: netip.MustParseAddr("198.51.100.10"), Protocol: gateway.TCP, Ports: gateway.PortRange{First: first, Last: last},
	}}
}

func to(port uint16) netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr("198.51.100.10"), port)
}

// flow returns a connection that carried n packets of the client and 10n of the backend.
func flow(id uint32, port uint16, n uint64) Flow {
	return Flow{
		ID: id, Protocol: gateway.TCP, Destination: to(port),
		FromClient: Volume{Packets: n, Bytes: 100 * n}, ToClient: Volume{Packets: 10 * n, Bytes: 1000 * n},
	}
}

// read performs a reading in which these connections are open.
func read(a *Accumulator, open ...Flow) {
	a.Begin()
	for _, f := range open {
		a.Open(f)
	}
	a.Finish()
}

// summary returns the entries in a short form: owner, ports, connections, packets of clients, open, dropped, rejected.
func summary(t *testing.T, a *Accumulator) []string {
	t.Helper()
	var lines []string
	for _, e := range a.Entries() {
		if n := e.FromClient.Packets; e.FromClient.Bytes != 100*n || e.ToClient != (Volume{10 * n, 1000 * n}) {
			t.Errorf("%s: %+v and %+v do not belong together", e.Frontend, e.FromClient, e.ToClient)
		}
		lines = append(lines, fmt.Sprint(e.Owner, " ", e.Ports, ": ", e.Connections, "/", e.FromClient.Packets, " open ", e.Open, " refused ", e.Dropped, "+", e.Rejected))
	}
	return lines
}

func TestAccumulator(t *testing.T) {
	dropped := func(port uint16, n uint64) Refusal {
		return Refusal{SourceNotAllowed, gateway.TCP, to(port), n}
	}
	rejected := func(port uint16, n uint64) Refusal { return Refusal{NoEndpoints, gateway.TCP, to(port), n} }
	for _, test := range []struct {
		name string
		do   func(a *Accumulator)
		want []string
	}{
		{"nothing", func(a *Accumulator) { read(a) }, nil},
		{"an open connection grows", func(a *Accumulator) {
			read(a, flow(1, 80, 3))
			read(a, flow(1, 80, 5))
		}, []string{"a/web 80: 1/5 open 1 refused 0+0"}},
		{"connections end between readings", func(a *Accumulator) {
			a.End(flow(1, 80, 3))
			a.End(flow(2, 80, 4))
			read(a, flow(3, 80, 1))
		}, []string{"a/web 80: 3/8 open 1 refused 0+0"}},
		{"totals do not change without a reading", func(a *Accumulator) {
			read(a, flow(1, 80, 1))
			a.End(flow(1, 80, 9))
		}, []string{"a/web 80: 1/1 open 1 refused 0+0"}},
		{"one ends after the walk saw it", func(a *Accumulator) {
			a.Begin()
			a.Open(flow(1, 80, 3))
			a.End(flow(1, 80, 4))
			a.Finish()
		}, []string{"a/web 80: 1/3 open 1 refused 0+0"}},
		{"and counts once afterwards", func(a *Accumulator) {
			a.Begin()
			a.Open(flow(1, 80, 3))
			a.End(flow(1, 80, 4))
			a.Finish()
			read(a)
		}, []string{"a/web 80: 1/4 open 0 refused 0+0"}},
		{"one ends before the walk reaches it", func(a *Accumulator) {
			a.Begin()
			a.End(flow(1, 80, 4))
			a.Open(flow(2, 80, 1))
			a.Finish()
		}, []string{"a/web 80: 2/5 open 1 refused 0+0"}},
		{"the message comes first, and the walk still sees it", func(a *Accumulator) {
			a.Begin()
			a.End(flow(1, 80, 4))
			a.Open(flow(1, 80, 4))
			a.Finish()
			read(a)
		}, []string{"a/web 80: 1/4 open 0 refused 0+0"}},
		{"the kernel lists one twice", func(a *Accumulator) { read(a, flow(1, 80, 4), flow(2, 80, 1), flow(1, 80, 4)) }, []string{"a/web 80: 2/5 open 2 refused 0+0"}},
		{"a walk misses one", func(a *Accumulator) {
			read(a, flow(1, 80, 4))
			read(a)
			a.End(flow(1, 80, 5))
			read(a)
		}, []string{"a/web 80: 1/5 open 0 refused 0+0"}},
		{"a walk fails", func(a *Accumulator) {
			read(a, flow(1, 80, 4))
			a.Begin()
			a.End(flow(1, 80, 6))
			a.Abandon()
			read(a)
		}, []string{"a/web 80: 1/6 open 0 refused 0+0"}},
		{"messages are lost", func(a *Accumulator) {
			read(a, flow(1, 80, 4), flow(2, 80, 3))
			a.Lost()
			read(a, flow(3, 80, 2))
			a.End(flow(3, 80, 5))
			read(a)
		}, []string{"a/web 80: 2/10 open 0 refused 0+0"}},
		{"messages are lost during a walk", func(a *Accumulator) {
			a.Begin()
			a.Open(flow(1, 80, 4))
			a.Lost()
			a.Finish()
			read(a)
			a.End(flow(2, 80, 5))
			read(a)
		}, []string{"a/web 80: 2/9 open 0 refused 0+0"}},
		{"a range counts together", func(a *Accumulator) {
			a.End(flow(1, 2000, 1))
			a.Refuse([]Refusal{dropped(2001, 2), dropped(2009, 3)}, true)
			read(a, flow(2, 2009, 2), flow(3, 2010, 9), flow(4, 1999, 9))
		}, []string{"b/game 2000-2009: 2/3 open 1 refused 5+0"}},
		{"an absent address still counts", func(a *Accumulator) { read(a, flow(1, 9000, 2)) }, []string{"c/away 9000: 1/2 open 1 refused 0+0"}},
		{"another protocol", func(a *Accumulator) {
			f := flow(1, 80, 1)
			f.Protocol = gateway.UDP
			a.End(f)
			read(a, f)
		}, nil},
		{"refusals grow", func(a *Accumulator) {
			a.Refuse([]Refusal{dropped(80, 2), rejected(80, 1)}, true)
			a.Refuse([]Refusal{dropped(80, 7), rejected(80, 1)}, true)
			read(a)
		}, []string{"a/web 80: 0/0 open 0 refused 7+1"}},
		{"a counter starts again", func(a *Accumulator) {
			a.Refuse([]Refusal{dropped(80, 7)}, true)
			a.Refuse([]Refusal{dropped(80, 2)}, true)
			read(a)
		}, []string{"a/web 80: 0/0 open 0 refused 9+0"}},
		{"a counter was gone for a while", func(a *Accumulator) {
			a.Refuse([]Refusal{dropped(80, 7)}, true)
			a.Refuse(nil, true)
			a.Refuse([]Refusal{dropped(80, 8)}, true)
			read(a)
		}, []string{"a/web 80: 0/0 open 0 refused 15+0"}},
		{"a reading of refusals is incomplete", func(a *Accumulator) {
			a.Refuse([]Refusal{dropped(80, 7)}, true)
			a.Refuse(nil, false)
			a.Refuse([]Refusal{dropped(80, 8), dropped(80, 8)}, true)
			read(a)
		}, []string{"a/web 80: 0/0 open 0 refused 8+0"}},
		{"a Mapping goes", func(a *Accumulator) {
			a.Refuse([]Refusal{dropped(80, 7)}, true)
			read(a, flow(1, 80, 4))
			a.Follow(nil)
			read(a, flow(1, 80, 5))
		}, nil},
		{"and comes back", func(a *Accumulator) {
			a.Refuse([]Refusal{dropped(80, 7)}, true)
			read(a, flow(1, 80, 4))
			a.Follow(nil)
			read(a)
			a.Follow([]*gateway.Forward{forward("a/web", 80, 80)})
			a.Refuse([]Refusal{dropped(80, 8)}, true)
			read(a, flow(2, 80, 1))
		}, []string{"a/web 80: 1/1 open 1 refused 1+0"}},
		{"a port changes hands", func(a *Accumulator) {
			a.Refuse([]Refusal{dropped(80, 7)}, true)
			a.End(flow(1, 80, 4))
			read(a)
			a.Follow([]*gateway.Forward{forward("b/other", 80, 80)})
			a.Refuse([]Refusal{dropped(80, 9)}, true)
			read(a, flow(2, 80, 1))
		}, []string{"b/other 80: 1/1 open 1 refused 2+0"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			a := NewAccumulator()
			a.Follow([]*gateway.Forward{forward("a/web", 80, 80), forward("b/game", 2000, 2009)}, []*gateway.Forward{forward("c/away", 9000, 9000)})
			test.do(a)
			if diff := cmp.Diff(test.want, summary(t, a)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestMemory expects that Frontends which come and go are forgotten without any reading.
func TestMemory(t *testing.T) {
	a := NewAccumulator()
	for port := range uint16(20_000) {
		a.Follow([]*gateway.Forward{forward("a/web", port+1, port+1)})
		a.End(flow(uint32(port), port+1, 1))
	}
	if len(a.entries) > 2000 {
		t.Errorf("%d entries for one Forward", len(a.entries))
	}
}

// TestRandomWalk lets connections live and end at any moment of readings, and compares with what they carried. Totals never
// decrease, are never more than what was carried, and are exact once no connection is open.
func TestRandomWalk(t *testing.T) {
	for seed := range uint64(200) {
		random := rand.New(rand.NewPCG(seed, 1))
		a := NewAccumulator()
		a.Follow([]*gateway.Forward{forward("a/web", 80, 80)})
		var open []*Flow
		ended, next := flows{}, uint32(0)
		live := func() {
			switch n := len(open); {
			case n > 0 && random.IntN(3) == 0:
				i := random.IntN(n)
				a.End(*open[i])
				ended = ended.plus(open[i].carried())
				open = append(open[:i:i], open[i+1:]...)
			case n > 0 && random.IntN(2) == 0:
				f := open[random.IntN(n)]
				f.FromClient = f.FromClient.plus(Volume{1, 100})
				f.ToClient = f.ToClient.plus(Volume{10, 1000})
			default:
				next++
				f := flow(next, 80, 1)
				open = append(open, &f)
			}
		}
		before := flows{}
		check := func(exact bool) {
			carried := ended
			for _, f := range open {
				carried = carried.plus(f.carried())
			}
			got := flows{}
			for _, e := range a.Entries() {
				got = flows{e.Connections, e.FromClient, e.ToClient}
			}
			if got.max(before) != got || carried.max(got) != carried || exact && got != carried {
				t.Fatalf("seed %d: total %+v after %+v, carried %+v", seed, got, before, carried)
			}
			before = got
		}
		for range 30 {
			for range random.IntN(6) {
				live()
			}
			a.Begin()
			for _, f := range append([]*Flow(nil), open...) {
				if random.IntN(2) == 0 {
					live()
				}
				for _, still := range open { // the walk meets only what is there when it comes by
					if still == f {
						a.Open(*f)
					}
				}
			}
			for range random.IntN(3) {
				live()
			}
			a.Finish()
			check(false)
		}
		for _, f := range open {
			a.End(*f)
			ended = ended.plus(f.carried())
		}
		open = nil
		read(a)
		check(true)
	}
}
