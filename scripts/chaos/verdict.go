// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Bounds of the verdict.
const (
	// longestGap is how long no new connection may come to be outside of the window of a fault.
	longestGap = time.Second
	// longestRepair is how long the kernel may differ from what is desired once it can be mended.
	longestRepair = 10 * time.Second
	// manyConnections are so many that one of them may fail without a reason.
	manyConnections = 10_000
)

// scope is where traffic may notice a fault; the empty one is everywhere.
type scope struct{ link, family string }

// covers tells whether a path, an address and a port, is within the scope.
func (s scope) covers(path string) bool {
	family, link := "IPv4", "eth1"
	if strings.HasPrefix(path, "[") {
		family = "IPv6"
	}
	if strings.HasPrefix(path, "203.0.113.") || strings.HasPrefix(path, "[2001:db8:2:") {
		link = "eth2"
	}
	return (s.link == "" || s.link == link) && (s.family == "" || s.family == family)
}

// effect is that new connections miss what a fault took out of the kernel: where, and from when on, until it is back.
// Connections that last outlive that.
type effect struct {
	Scope scope
	At    time.Time
}

// record is a fault that was had, or two at once.
type record struct {
	step
	// Variant says what it was more exactly.
	Variant string
	// Effects are what traffic may notice: none, one, or two.
	Effects []effect
	// Opens is set for one that takes the boundary itself away.
	Opens bool
	// Injected and Healed are when it was done, the first of two, and, by us or by itself, over, the last of them.
	Injected, Healed time.Time
	// Repaired is when the kernel held all that it should, Followed when a change of the cluster had come through after that.
	Repaired, Followed time.Time
	// Ended is when the next one's time begins.
	Ended time.Time
	// Passed are packets that must not pass and did, before the repair and after it.
	Passed, PassedAfter int
	// Uncounted is set where a repair did not show in smartnatd's metrics.
	Uncounted bool
	// Failed is what went wrong with the fault itself.
	Failed string
}

// window is when new connections by a path may miss something: from the first of such effects on, until all is repaired.
func (r record) window(path string) span {
	w := span{r.Repaired, r.Repaired}
	for _, e := range r.Effects {
		if e.Scope.covers(path) && e.At.Before(w.From) {
			w.From = e.At
		}
	}
	return w
}

func (r record) period() span { return span{r.Injected, r.Ended} }

// outcome is all that a run brought to light.
type outcome struct {
	Records []record
	Tracks  []track
	// Answered are answers to a source that must not have any.
	Answered []loss
	// Usage is what the programs used, from when all was settled first.
	Usage []usage
	// Growth bounds usage.
	Growth growth
	// Differs is what a restart still had to write, and how the kernel differed after it.
	Differs []string
}

// judge names all that must not have happened.
func judge(o outcome) []string {
	var faults []string
	say := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
	for _, r := range o.Records {
		r.judge(say)
	}
	for _, t := range o.Tracks {
		switch t.Class {
		case control:
		case sessions:
			o.judgeSessions(t, say)
		default:
			o.judgeGaps(t, say)
		}
		if t.Done == 0 {
			say("%s to %s: not one exchange succeeded", t.Class, t.Path)
		}
	}
	for _, a := range o.Answered {
		say("a source that is not allowed was answered: %s %s", a.Why, o.after(a.At))
	}
	o.judgeStrays(say)
	faults = append(faults, o.Growth.judge(o.Usage)...)
	return append(faults, o.Differs...)
}

func (r record) judge(say func(string, ...any)) {
	name := r.name() + " (" + r.Variant + ")"
	if r.Failed != "" {
		say("%s: %s", name, r.Failed)
	}
	if r.Uncounted {
		say("%s: the metric of repairs did not rise", name)
	}
	if took := r.Repaired.Sub(r.Healed); took > longestRepair && r.Failed == "" {
		say("%s: repaired only after %v", name, took.Round(time.Millisecond))
	}
	if r.Passed > 0 && !r.Opens || r.PassedAfter > 0 {
		say("%s: %d packets passed that must not, and %d more after the repair", name, r.Passed, r.PassedAfter)
	}
}

// judgeSessions: no fault may end a connection that lasts.
func (o outcome) judgeSessions(t track, say func(string, ...any)) {
	for _, l := range t.Losses {
		say("an established connection to %s was lost: %s %s", t.Path, l.Why, o.after(l.At))
	}
}

// judgeStrays: a new connection may fail in a window alone. A machine that is busy loses the same packet three times now and
// then, so one of many may fail anywhere.
func (o outcome) judgeStrays(say func(string, ...any)) {
	done := 0
	var strays []string
	for _, t := range o.Tracks {
		if t.Class != connections {
			continue
		}
		done += t.Done
		for _, l := range t.Losses {
			if len(o.outsideWindows(span{l.At, l.At.Add(1)}, t.Path)) > 0 && o.machine(span{l.At, l.At.Add(patience)}) == 0 {
				strays = append(strays, fmt.Sprintf("to %s: %s %s", t.Path, l.Why, o.after(l.At)))
			}
		}
	}
	if len(strays) > 1+done/manyConnections {
		say("%d of %d new connections failed outside of any window: %s", len(strays), done, strings.Join(strays[:min(len(strays), 5)], "; "))
	}
}

// judgeGaps: no gap but by a fault whose window it is, or by the machine, on which the control was as late.
func (o outcome) judgeGaps(t track, say func(string, ...any)) {
	for _, gap := range t.Gaps {
		for _, part := range o.outsideWindows(gap, t.Path) {
			if part.length() > longestGap+o.machine(part) {
				say("%s to %s: none for %v, outside of any window, %s", t.Class, t.Path, part.length().Round(time.Millisecond), o.after(part.From))
			}
		}
	}
}

// outsideWindows is what is left of a span without the windows of all faults that a path may notice.
func (o outcome) outsideWindows(s span, path string) []span {
	left := []span{s}
	for _, r := range o.Records {
		w := r.window(path)
		var next []span
		for _, part := range left {
			if w.overlap(part).length() == 0 {
				next = append(next, part)
				continue
			}
			for _, rest := range []span{{part.From, w.From}, {w.To, part.To}} {
				if rest.length() > 0 {
					next = append(next, rest)
				}
			}
		}
		left = next
	}
	return left
}

// machine is how long the control had nothing either during a span.
func (o outcome) machine(s span) time.Duration {
	longest := time.Duration(0)
	for _, t := range o.Tracks {
		if t.Class != control {
			continue
		}
		for _, gap := range t.Gaps {
			longest = max(longest, gap.overlap(s).length())
		}
	}
	return longest
}

// recordAt is the fault in whose time an instant is.
func (o outcome) recordAt(at time.Time) *record {
	for i := range slices.Backward(o.Records) {
		if !o.Records[i].Injected.After(at) {
			return &o.Records[i]
		}
	}
	return nil
}

// after says in whose time an instant is.
func (o outcome) after(at time.Time) string {
	r := o.recordAt(at)
	if r == nil {
		return "before the first fault"
	}
	return fmt.Sprintf("%v after %s (%s)", at.Sub(r.Injected).Round(time.Millisecond), r.name(), r.Variant)
}
