// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package quarantine

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/smartnat/smartnat/pkg/dataplane"
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/gateway/gatewaytest"
)

// plane is a Dataplane that fails as refuses says.
type plane struct {
	// refuses returns the error for a state.
	refuses func(gateway.State) error
	// tries and applies count calls; state is what is in effect.
	tries, applies int
	state          gateway.State
}

func (p *plane) Apply(_ context.Context, state gateway.State) (dataplane.Result, error) {
	p.applies++
	if err := p.refuses(state); err != nil {
		return dataplane.Result{Changes: dataplane.Changes{Sets: 1}}, err
	}
	p.state = state
	return dataplane.Result{Changes: dataplane.Changes{Sets: 1, InPlace: true}}, nil
}

func (p *plane) Try(_ context.Context, state gateway.State) error {
	p.tries++
	return p.refuses(state)
}

// bad refuses Forwards with session affinity of the given owners. A mark such as "a4" limits the refusal to one family.
func bad(marks ...string) func(gateway.State) error {
	return func(state gateway.State) error {
		var errs []error
		for _, f := range state.Forwards {
			if f.Affinity != 0 && (slices.Contains(marks, f.Owner) || slices.Contains(marks, f.Owner+family(f))) {
				errs = append(errs, fmt.Errorf("IPv%s: line 7,\n%q: %w", family(f), f.Owner, gateway.ErrRefused))
			}
		}
		return errors.Join(errs...)
	}
}

func never(gateway.State) error { return nil }

func family(f *gateway.Forward) string {
	if f.Address.Is6() {
		return "6"
	}
	return "4"
}

const (
	v4, v6 = "198.51.100.10", "2001:db8::10"
	pod1   = "10.0.0.1"
	pod2   = "10.0.0.2"
	pod3   = "10.0.0.3"
)

// forward returns a Forward with session affinity to pods.
func forward(owner, address string, port uint16, pods ...string) *gateway.Forward {
	f := gatewaytest.Forward(netip.MustParseAddr(address), gateway.TCP, port, port, backends(pods...)...)
	f.Owner, f.Direct, f.Affinity = owner, true, time.Hour
	return f
}

// plain returns a Forward without session affinity, which bad does not refuse.
func plain(owner, address string, port uint16, pods ...string) *gateway.Forward {
	f := forward(owner, address, port, pods...)
	f.Affinity = 0
	return f
}

func backends(pods ...string) []gateway.Backend {
	return gatewaytest.BackendsAt(80, gatewaytest.Addrs(pods...)...)
}

func from(sources ...string) func(*gateway.Forward) {
	return func(f *gateway.Forward) { *f = *gatewaytest.From(f, sources...) }
}

func state(forwards ...*gateway.Forward) gateway.State {
	return gateway.State{Forwards: gatewaytest.Sort(forwards), Uplinks: []gateway.Uplink{{Link: "eth1", Number: 1}}}
}

// many returns the states of n owners without and with affinity.
func many(n int) (before, want gateway.State) {
	for i := range n {
		owner, port := fmt.Sprintf("many/%04d", i), uint16(1000+i)
		before.Forwards = append(before.Forwards, plain(owner, v4, port, pod1))
		want.Forwards = append(want.Forwards, forward(owner, v4, port, pod1))
	}
	return before, want
}

// say lists what is in effect: "a 198.51.100.10:80/tcp 10.0.0.1".
func say(s gateway.State) []string {
	var lines []string
	for _, f := range s.Forwards {
		line := f.Owner + " " + f.String()
		for _, b := range f.Backends {
			line += " " + b.Address.String()
		}
		for _, b := range f.Draining {
			line += " (" + b.Address.String() + ")"
		}
		for _, s := range f.Sources {
			line += " from " + s.String()
		}
		if f.SourcesDeny {
			line += " from none"
		}
		if f.Affinity != 0 {
			line += " affinity"
		}
		lines = append(lines, line)
	}
	for _, e := range s.Egresses {
		lines = append(lines, fmt.Sprint(e.Owner, " egress ", e.Address, e.Uplink, e.Sources))
	}
	return lines
}

// quarantined lists the parts that are quarantined, such as "a4", with "?" if only suspected.
func quarantined(q *Quarantine) []string {
	var all []string
	for _, r := range q.Refusals() {
		name := r.Owner + strconv.Itoa(r.Family)
		if r.Suspected {
			name += "?"
		}
		all = append(all, name)
	}
	return all
}

var begin = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func TestWhoIsSetAside(t *testing.T) {
	good := plain("good", v4, 80, pod1)
	before, thousand := many(1000)
	changed := before
	changed.Forwards = slices.Clone(before.Forwards)
	changed.Forwards[377] = thousand.Forwards[377]
	together := func(s gateway.State) error {
		if len(s.Forwards) > 1 {
			return gateway.ErrRefused
		}
		return nil
	}
	locked := errors.New("locked")
	for _, test := range []struct {
		name         string
		before, want gateway.State
		refuses      func(gateway.State) error
		quarantined  []string
		inEffect     []string // not compared if nil
		tries        int
		applies      int
		err          error
	}{
		{
			"nothing is refused", state(good), state(good, forward("a", v4, 81, pod1)), never,
			nil, []string{"good 198.51.100.10:80/tcp 10.0.0.1", "a 198.51.100.10:81/tcp 10.0.0.1 affinity"}, 0, 1, nil,
		},
		{
			"a new Mapping", state(good), state(good, forward("a", v4, 81, pod1)), bad("a"),
			[]string{"a4"}, []string{"good 198.51.100.10:80/tcp 10.0.0.1"}, 2, 2, nil,
		},
		{
			"the previous version stays", state(good, plain("a", v4, 81, pod1)), state(good, forward("a", v4, 81, pod1)), bad("a"),
			[]string{"a4"}, []string{"good 198.51.100.10:80/tcp 10.0.0.1", "a 198.51.100.10:81/tcp 10.0.0.1"}, 2, 2, nil,
		},
		{
			"others are added, changed and removed", state(good, plain("b", v4, 82, pod1), plain("c", v4, 83, pod1)),
			state(good, forward("a", v4, 81, pod1), plain("b", v4, 82, pod2), plain("d", v4, 84, pod1)), bad("a"), []string{"a4"},
			[]string{"good 198.51.100.10:80/tcp 10.0.0.1", "b 198.51.100.10:82/tcp 10.0.0.2", "d 198.51.100.10:84/tcp 10.0.0.1"}, 4, 2, nil,
		},
		{
			"one family", state(), state(forward("a", v4, 81, pod1), forward("a", v6, 81, "fd00::1")), bad("a6"),
			[]string{"a6"}, []string{"a 198.51.100.10:81/tcp 10.0.0.1 affinity"}, 4, 2, nil,
		},
		{
			"both families", state(), state(good, forward("a", v4, 81, pod1), forward("a", v6, 81, "fd00::1")), bad("a"),
			[]string{"a4", "a6"}, []string{"good 198.51.100.10:80/tcp 10.0.0.1"}, 6, 2, nil,
		},
		{"one of a thousand at the first start", gateway.State{}, thousand, bad("many/0377"), []string{"many/03774"}, nil, 19, 2, nil},
		{"the last of a thousand", gateway.State{}, thousand, bad("many/0999"), []string{"many/09994"}, nil, 13, 2, nil},
		{"the one that changed among a thousand", before, changed, bad("many/0377"), []string{"many/03774"}, nil, 2, 2, nil},
		{
			"three of a thousand", gateway.State{}, thousand, bad("many/0001", "many/0500", "many/0998"),
			[]string{"many/00014", "many/05004", "many/09984"}, nil, 46, 2, nil,
		},
		{
			"one that was accepted before", state(forward("a", v4, 81, pod1), good), state(forward("a", v4, 81, pod1), plain("good", v4, 80, pod2)), bad("a"),
			[]string{"a4"}, []string{"good 198.51.100.10:80/tcp 10.0.0.2"}, 4, 3, nil,
		},
		{"two parts that are refused only together", state(good), state(good, plain("a", v4, 81, pod1), plain("b", v4, 82, pod1)), together, nil, nil, 5, 1, gateway.ErrRefused},
		{
			"shared state", state(good), state(good, forward("a", v4, 81, pod1)), func(gateway.State) error { return gateway.ErrRefused },
			nil, nil, 4, 1, gateway.ErrRefused,
		},
		{"an error that is no refusal", state(good), state(good, forward("a", v4, 81, pod1)), func(gateway.State) error { return locked }, nil, nil, 0, 1, locked},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := &plane{refuses: never}
			q := New(p)
			if _, _, err := q.Apply(t.Context(), begin, test.before); err != nil {
				t.Fatal(err)
			}
			p.refuses, p.applies = test.refuses, 0
			applied, result, err := q.Apply(t.Context(), begin, test.want)
			if !errors.Is(err, test.err) || err != nil && test.err == nil {
				t.Errorf("error %v, want %v", err, test.err)
			}
			if diff := cmp.Diff(test.quarantined, quarantined(q)); diff != "" {
				t.Errorf("quarantined (-want +got):\n%s", diff)
			}
			if test.inEffect != nil {
				if diff := cmp.Diff(test.inEffect, say(p.state)); diff != "" {
					t.Errorf("in effect (-want +got):\n%s", diff)
				}
			}
			if err == nil {
				if diff := cmp.Diff(say(applied), say(p.state)); diff != "" || len(applied.Forwards) == 0 {
					t.Errorf("applied (-returned +in effect):\n%s", diff)
				}
			}
			if p.tries != test.tries || p.applies != test.applies || result.Sets != test.applies {
				t.Errorf("%d tries and %d applies, %d of them in the result; want %d and %d", p.tries, p.applies, result.Sets, test.tries, test.applies)
			}
			for _, r := range q.Refusals() {
				if !strings.Contains(r.Why, "refused as invalid") || !strings.Contains(r.Why, r.Owner) || strings.Contains(r.Why, "\n") {
					t.Errorf("%s is refused with %q", r.Owner, r.Why)
				}
			}
		})
	}
}

// TestWhatStays: what a quarantined part keeps in effect must not expose anything that is no longer requested.
func TestWhatStays(t *testing.T) {
	a := plain("a", v4, 80, pod1, pod2)
	for _, test := range []struct {
		name         string
		before, want gateway.State
		inEffect     []string
	}{
		{"everything that is still requested", state(a), state(forward("a", v4, 80, pod1, pod2)), []string{"a 198.51.100.10:80/tcp 10.0.0.1 10.0.0.2"}},
		{"no removed endpoint and no new one", state(a), state(forward("a", v4, 80, pod2, pod3)), []string{"a 198.51.100.10:80/tcp 10.0.0.2"}},
		{"a Forward without endpoints rejects", state(a), state(forward("a", v4, 80, pod3)), []string{"a 198.51.100.10:80/tcp"}},
		{
			"an endpoint that drains", state(gatewaytest.With(a, func(f *gateway.Forward) { f.Draining = backends(pod3) })),
			state(gatewaytest.With(forward("a", v4, 80, pod1), func(f *gateway.Forward) { f.Draining = backends(pod2, pod3) })),
			[]string{"a 198.51.100.10:80/tcp 10.0.0.1 (10.0.0.2) (10.0.0.3)"},
		},
		{"no port that is no longer requested", state(a), state(forward("a", v4, 81, pod1)), nil},
		{
			"no port that another Mapping has now", state(a), state(plain("b", v4, 80, pod3), forward("a", v4, 81, pod1)),
			[]string{"b 198.51.100.10:80/tcp 10.0.0.3"},
		},
		{
			"previous sources that may still connect", state(gatewaytest.With(a, from("10.0.0.0/24"))), state(gatewaytest.With(forward("a", v4, 80, pod1), from("10.0.0.0/16", "192.0.2.0/24"))),
			[]string{"a 198.51.100.10:80/tcp 10.0.0.1 from 10.0.0.0/24"},
		},
		{
			"no source that was removed", state(gatewaytest.With(a, from("10.0.0.0/24", "192.0.2.0/24"))), state(gatewaytest.With(forward("a", v4, 80, pod1), from("192.0.2.0/24"))),
			[]string{"a 198.51.100.10:80/tcp 10.0.0.1 from 192.0.2.0/24"},
		},
		{
			"no longer every source", state(a), state(gatewaytest.With(forward("a", v4, 80, pod1), from("192.0.2.0/24"))),
			[]string{"a 198.51.100.10:80/tcp 10.0.0.1 from 192.0.2.0/24"},
		},
		{
			"sources that were narrowed", state(gatewaytest.With(a, from("192.0.2.0/24"))), state(gatewaytest.With(forward("a", v4, 80, pod1), from("192.0.2.0/25"))),
			[]string{"a 198.51.100.10:80/tcp 10.0.0.1 from 192.0.2.0/25"},
		},
		{
			"no source is allowed any more", state(a), state(gatewaytest.With(forward("a", v4, 80, pod1), func(f *gateway.Forward) { f.SourcesDeny = true })),
			[]string{"a 198.51.100.10:80/tcp 10.0.0.1 from none"},
		},
		{
			"no source was allowed yet", state(gatewaytest.With(a, func(f *gateway.Forward) { f.SourcesDeny = true })), state(forward("a", v4, 80, pod1)),
			[]string{"a 198.51.100.10:80/tcp 10.0.0.1 from none"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := &plane{refuses: bad("a")}
			q := New(p)
			for _, s := range []gateway.State{test.before, test.want} {
				if _, _, err := q.Apply(t.Context(), begin, s); err != nil {
					t.Fatal(err)
				}
			}
			if diff := cmp.Diff(test.inEffect, say(p.state)); diff != "" || len(quarantined(q)) != 1 {
				t.Errorf("%q are quarantined, in effect (-want +got):\n%s", quarantined(q), diff)
			}
		})
	}
}

// TestWhatStaysFollows: a kept Forward regains an endpoint that flaps, and kept egress pods keep their external address.
func TestWhatStaysFollows(t *testing.T) {
	egress := func(pods ...string) gateway.Egress {
		e := gateway.Egress{Address: netip.MustParseAddr(v4), Uplink: 1, Owner: "a"}
		for _, pod := range pods {
			e.Sources = append(e.Sources, netip.MustParseAddr(pod))
		}
		return e
	}
	p := &plane{refuses: bad("a")}
	q := New(p)
	for i, step := range []struct {
		want     gateway.State
		pods     []string
		inEffect []string
	}{
		{state(plain("a", v4, 80, pod1, pod2)), []string{pod1, pod2}, []string{"a 198.51.100.10:80/tcp 10.0.0.1 10.0.0.2", "a egress 198.51.100.10 1 [10.0.0.1 10.0.0.2]"}},
		{state(forward("a", v4, 80, pod1)), []string{pod1}, []string{"a 198.51.100.10:80/tcp 10.0.0.1", "a egress 198.51.100.10 1 [10.0.0.1]"}},
		{state(forward("a", v4, 80, pod1, pod2)), []string{pod1, pod2}, []string{"a 198.51.100.10:80/tcp 10.0.0.1 10.0.0.2", "a egress 198.51.100.10 1 [10.0.0.1 10.0.0.2]"}},
		{state(forward("a", v4, 80)), nil, []string{"a 198.51.100.10:80/tcp"}},
	} {
		step.want.Egresses = []gateway.Egress{egress(step.pods...)}
		if _, _, err := q.Apply(t.Context(), begin, step.want); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(step.inEffect, say(p.state)); diff != "" {
			t.Errorf("step %d: in effect (-want +got):\n%s", i, diff)
		}
	}
}

// TestWhatStaysIsLeftOutWhereItIsRefused: if the kept version is refused too, it is dropped.
func TestWhatStaysIsLeftOutWhereItIsRefused(t *testing.T) {
	p := &plane{refuses: never}
	q := New(p)
	good := plain("good", v4, 80, pod1)
	for _, s := range []gateway.State{
		state(good, gatewaytest.With(plain("a", v4, 81, pod1), from("10.0.0.0/24", "192.0.2.0/24"))),
		state(good, gatewaytest.With(forward("a", v4, 81, pod1), from("192.0.2.0/24")), plain("new", v4, 82, pod1)),
	} {
		if _, _, err := q.Apply(t.Context(), begin, s); err != nil {
			t.Fatal(err)
		}
		p.refuses = func(s gateway.State) error {
			if slices.ContainsFunc(s.Forwards, func(f *gateway.Forward) bool { return f.Owner == "a" }) {
				return gateway.ErrRefused
			}
			return nil
		}
	}
	want := []string{"good 198.51.100.10:80/tcp 10.0.0.1", "new 198.51.100.10:82/tcp 10.0.0.1"}
	if diff := cmp.Diff(want, say(p.state)); diff != "" || !slices.Equal(quarantined(q), []string{"a4"}) {
		t.Errorf("%q are quarantined, in effect (-want +got):\n%s", quarantined(q), diff)
	}
}
