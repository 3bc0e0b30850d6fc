// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// at returns the time that many seconds into a run.
func at(seconds float64) time.Time {
	return start.Add(time.Duration(seconds * float64(time.Second)))
}

func gap(from, to float64) span { return span{at(from), at(to)} }

const (
	first4  = "198.51.100.10:8080"
	second4 = "203.0.113.10:8080"
	first6  = "[2001:db8:1::10]:8080"
)

func TestJudge(t *testing.T) {
	relay := record{step: step{Fault: "relay killed"}, Injected: at(10), Healed: at(15), Repaired: at(15), Followed: at(16), Ended: at(20)}
	flushed := record{
		step: step{Fault: "nat flushed"}, Effects: []effect{{scope{family: "IPv4"}, at(10)}},
		Injected: at(10), Healed: at(10), Repaired: at(14), Followed: at(15), Ended: at(20),
	}
	link := record{
		step: step{Fault: "eth1 down"}, Effects: []effect{{scope{link: "eth1"}, at(10)}},
		Injected: at(10), Healed: at(14), Repaired: at(15), Followed: at(16), Ended: at(20),
	}
	// First nat is flushed, then an uplink goes down.
	both := record{
		step:     step{Fault: "nat flushed", Second: &step{Fault: "eth1 down"}},
		Effects:  []effect{{scope{family: "IPv4"}, at(10)}, {scope{link: "eth1"}, at(12)}},
		Injected: at(10), Healed: at(17), Repaired: at(18), Followed: at(19), Ended: at(20),
	}
	with := func(r record, change func(*record)) record { change(&r); return r }
	tracks := func(c class, path string, gaps ...span) []track {
		return []track{{Class: c, Path: path, Gaps: gaps, Done: 1}}
	}
	lost := func(c class, path string, seconds float64) []track {
		return []track{{Class: c, Path: path, Done: 1, Losses: []loss{{at(seconds), "reset"}}}}
	}
	for _, test := range []struct {
		name string
		o    outcome
		want string // part of the only failure; no failure if empty
	}{
		{"nothing", outcome{Records: []record{relay}}, ""},
		{"a short gap under a fault without window", outcome{Records: []record{relay}, Tracks: tracks(connections, first4, gap(11, 11.9))}, ""},
		{"a long one", outcome{Records: []record{relay}, Tracks: tracks(connections, first4, gap(11, 12.1))}, "none for 1.1s"},
		{"a long one of datagrams", outcome{Records: []record{relay}, Tracks: tracks(datagrams, first4, gap(11, 12.1))}, "none for 1.1s"},
		{"a long one before all faults", outcome{Records: []record{relay}, Tracks: tracks(connections, first4, gap(1, 3))}, "before the first fault"},
		{"a session may be silent", outcome{Records: []record{relay}, Tracks: tracks(sessions, first4, gap(11, 15))}, ""},
		{"a window holds a gap", outcome{Records: []record{flushed}, Tracks: tracks(connections, first4, gap(10.1, 14.9))}, ""},
		{"a gap outlasts its window", outcome{Records: []record{flushed}, Tracks: tracks(connections, first4, gap(10.1, 15.2))}, "none for 1.2s"},
		{"a gap begins before its window", outcome{Records: []record{flushed}, Tracks: tracks(connections, first4, gap(8.8, 13))}, "none for 1.2s"},
		{"another family's window", outcome{Records: []record{flushed}, Tracks: tracks(connections, first6, gap(11, 13))}, "none for 2s"},
		{"another uplink's window", outcome{Records: []record{link}, Tracks: tracks(connections, second4, gap(11, 13))}, "none for 2s"},
		{
			"the machine was as late",
			outcome{Records: []record{relay}, Tracks: append(tracks(connections, first4, gap(11, 13)), tracks(control, "", gap(11.2, 12.8))...)},
			"",
		},
		{
			"the machine was late at another time",
			outcome{Records: []record{relay}, Tracks: append(tracks(connections, first4, gap(11, 13)), tracks(control, "", gap(5, 9))...)},
			"none for 2s",
		},
		{"a session is lost", outcome{Records: []record{flushed}, Tracks: lost(sessions, first4, 12)}, "2s after nat flushed"},
		{"a session is lost with its uplink", outcome{Records: []record{link}, Tracks: lost(sessions, first4, 12)}, "2s after eth1 down"},
		{"a new connection fails in a window", outcome{Records: []record{flushed}, Tracks: lost(connections, first4, 12)}, ""},
		{"one new connection fails outside", outcome{Records: []record{flushed}, Tracks: lost(connections, first4, 14.5)}, ""},
		{
			"two new connections fail outside",
			outcome{Records: []record{flushed}, Tracks: append(lost(connections, first4, 14.5), lost(connections, second4, 9)...)},
			"2 of 2 new connections failed",
		},
		{"two at once: a gap by the first", outcome{Records: []record{both}, Tracks: tracks(connections, second4, gap(10, 18))}, ""},
		{"two at once: a gap by the second", outcome{Records: []record{both}, Tracks: tracks(connections, first6, gap(12, 18))}, ""},
		{"two at once: a gap before the second", outcome{Records: []record{both}, Tracks: tracks(connections, first6, gap(10, 18))}, "none for 2s"},
		{"two at once: a gap by both", outcome{Records: []record{both}, Tracks: tracks(connections, first4, gap(10, 18))}, ""},
		{"a path on which nothing went", outcome{Tracks: []track{{Class: sessions, Path: first4}}}, "not one exchange"},
		{"an answer to a stranger", outcome{Records: []record{relay}, Answered: []loss{{At: at(12), Why: "x"}}}, "was answered"},
		{"packets pass", outcome{Records: []record{with(flushed, func(r *record) { r.Passed = 1 })}}, "1 packets passed"},
		{"packets pass while the boundary is away", outcome{Records: []record{with(flushed, func(r *record) { r.Passed, r.Opens = 1, true })}}, ""},
		{"packets pass after the repair", outcome{Records: []record{with(flushed, func(r *record) { r.PassedAfter, r.Opens = 1, true })}}, "1 more after"},
		{"a slow repair", outcome{Records: []record{with(flushed, func(r *record) { r.Repaired = at(21) })}}, "repaired only after 11s"},
		{"a repair that is not counted", outcome{Records: []record{with(flushed, func(r *record) { r.Uncounted = true })}}, "did not rise"},
		{"no repair", outcome{Records: []record{with(flushed, func(r *record) { r.Failed = "it differs" })}}, "it differs"},
		{"the kernel differs at the end", outcome{Differs: []string{"the kernel differs"}}, "the kernel differs"},
		{"growth", outcome{Growth: growth{Share: 0.5}, Usage: samples(10, 12, 16, 12)}, "grew from 10 to 16"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := judge(test.o)
			if test.want == "" && len(got) > 0 || test.want != "" && (len(got) != 1 || !strings.Contains(got[0], test.want)) {
				t.Errorf("judged %q, want %q", got, test.want)
			}
		})
	}
}

// samples returns the values of one resource, a second apart.
func samples(values ...float64) []usage {
	var all []usage
	for i, v := range values {
		all = append(all, usage{At: at(float64(i)), Values: map[string]float64{"memory": v}})
	}
	return all
}

func TestSlope(t *testing.T) {
	g := growth{Share: 10, Slope: 0.05, Extra: map[string]float64{"memory": 1}}
	for _, test := range []struct {
		name    string
		samples []usage
		want    int
	}{
		{"flat", samples(10, 20, 20, 21, 20, 19, 20, 20), 0},
		{"grows only at first", samples(10, 15, 18, 20, 20, 20, 20, 20), 0},
		{"grows on", samples(10, 12, 14, 16, 18, 20, 22, 24), 1},
		{"up and down", samples(20, 22, 20, 22, 20, 22, 20, 22), 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := g.judge(test.samples); len(got) != test.want {
				t.Errorf("judged %q, want %d", got, test.want)
			}
		})
	}
}

func TestCanonical(t *testing.T) {
	one := `# Generated
*nat
:PREROUTING ACCEPT [5:300]
:B - [0:0]
:A - [0:0]
-A PREROUTING -j A
-A A -j B
-A A -j ACCEPT
COMMIT
family IPv6
*filter
:FORWARD DROP [1:2]
COMMIT
other
0: from all lookup local
`
	another := strings.NewReplacer("[5:300]", "[6:360]", ":B - [0:0]\n:A - [0:0]", ":A - [0:0]\n:B - [0:0]").Replace(one)
	if diff := cmp.Diff(canonical(one), canonical(another)); diff != "" {
		t.Errorf("counters or the order of chains make a difference:\n%s", diff)
	}
	for _, change := range []struct{ old, new string }{
		{"-A A -j B\n-A A -j ACCEPT", "-A A -j ACCEPT\n-A A -j B"},
		{"FORWARD DROP", "FORWARD ACCEPT"},
		{":B - [0:0]\n", ""},
		{"lookup local", "lookup main"},
		{"family IPv6\n", ""},
	} {
		if changed := strings.Replace(one, change.old, change.new, 1); canonical(one) == canonical(changed) {
			t.Errorf("%q instead of %q makes no difference", change.new, change.old)
		}
	}
}

// TestFaultsHaveNames checks that the names that schedules use are unique.
func TestFaultsHaveNames(t *testing.T) {
	seen := map[string]bool{}
	for _, f := range faults() {
		if f.name == "" || seen[f.name] || f.inject == nil {
			t.Errorf("duplicate name, or no inject function: %q", f.name)
		}
		seen[f.name] = true
	}
}
