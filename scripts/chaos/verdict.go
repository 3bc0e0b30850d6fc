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
	// longestGap is the longest time without a new connection outside of a fault's window.
	longestGap = time.Second
	// longestRepair is how long the kernel may differ from the desired state once a repair is possible.
	longestRepair = 10 * time.Second
	// manyConnections is the number of new connections of which one may fail without a cause.
	manyConnections = 10_000
)

// scope is the traffic that may notice a fault; the zero value is all of it.
type scope struct{ link, family string }

// covers reports whether a path, an address and a port, is within the scope.
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

// effect is the scope in which new connections may fail because of a fault, from a time on until the repair. Established
// connections survive it.
type effect struct {
	Scope scope
	At    time.Time
}

// record is the outcome of one fault, or of two at once.
type record struct {
	step
	// Variant describes the fault in more detail.
	Variant string
	// Effects are those that traffic may notice: none, one, or two.
	Effects []effect
	// Opens is set if a fault removes the boundary too.
	Opens bool
	// Injected is when the first fault began, Healed when the last of them ended or was ended.
	Injected, Healed time.Time
	// Repaired is when the kernel held the desired state again, Followed when a later change of the cluster was in effect.
	Repaired, Followed time.Time
	// Ended is when the time of the next fault begins.
	Ended time.Time
	// Passed counts forbidden packets that passed before the repair, PassedAfter those after it.
	Passed, PassedAfter int
	// Uncounted is set if smartnatd's metrics do not show the repair.
	Uncounted bool
	// Failed is the error of the fault itself.
	Failed string
}

// window is the time in which new connections over a path may fail: from the first such effect until the repair.
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

// outcome is all that a run recorded.
type outcome struct {
	Records []record
	Tracks  []track
	// Answered are answers to a source that must not get any.
	Answered []loss
	// Usage holds the resources in use, from the first settled state on.
	Usage []usage
	// Growth bounds usage.
	Growth growth
	// Differs is what a restart wrote, and how the kernel differed after it.
	Differs []string
}

// judge returns all failures.
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

// judgeSessions reports all lost sessions: no fault may end one.
func (o outcome) judgeSessions(t track, say func(string, ...any)) {
	for _, l := range t.Losses {
		say("an established connection to %s was lost: %s %s", t.Path, l.Why, o.after(l.At))
	}
}

// judgeStrays reports new connections that failed outside of all windows. A busy machine may lose the same packet three times, so
// one in many may fail anywhere.
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

// judgeGaps reports gaps that neither the window of a fault nor the machine, with its late control, explains.
func (o outcome) judgeGaps(t track, say func(string, ...any)) {
	for _, gap := range t.Gaps {
		for _, part := range o.outsideWindows(gap, t.Path) {
			if part.length() > longestGap+o.machine(part) {
				say("%s to %s: none for %v, outside of any window, %s", t.Class, t.Path, part.length().Round(time.Millisecond), o.after(part.From))
			}
		}
	}
}

// outsideWindows returns the parts of a span outside of all windows that apply to a path.
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

// machine returns the longest gap of the control during a span.
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

// recordAt returns the record of the last fault injected before an instant.
func (o outcome) recordAt(at time.Time) *record {
	for i := range slices.Backward(o.Records) {
		if !o.Records[i].Injected.After(at) {
			return &o.Records[i]
		}
	}
	return nil
}

// after describes an instant by the last fault before it.
func (o outcome) after(at time.Time) string {
	r := o.recordAt(at)
	if r == nil {
		return "before the first fault"
	}
	return fmt.Sprintf("%v after %s (%s)", at.Sub(r.Injected).Round(time.Millisecond), r.name(), r.Variant)
}
