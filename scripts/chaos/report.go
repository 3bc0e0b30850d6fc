// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/smartnat/smartnat/scripts/bench/figures"
	"github.com/smartnat/smartnat/scripts/bench/load"
)

// Report is the result of a run.
type Report struct {
	load.Run
	plan
	outcome
	// Verdict lists all failures.
	Verdict []string
}

// cost is the worst cost of the faults of a kind.
type cost struct {
	times int
	// Lost exchanges by class, and the forbidden packets that passed.
	sessions, connections, datagrams, passed int
	// gap is the longest for new connections, silence the longest for sessions and datagrams.
	gap, silence       time.Duration
	repaired, followed time.Duration
}

// line summarizes a record.
func (r record) line() string {
	text := fmt.Sprintf("%s (%s): held %v, repaired after %v, followed after %v", r.name(), r.Variant, milliseconds(r.Healed.Sub(r.Injected)),
		milliseconds(r.Repaired.Sub(r.Healed)), milliseconds(r.Followed.Sub(r.Repaired)))
	if r.Passed+r.PassedAfter > 0 {
		text += fmt.Sprintf(", PASSED %d+%d", r.Passed, r.PassedAfter)
	}
	if r.Failed != "" {
		text += ", FAILED: " + r.Failed
	}
	return text
}

func milliseconds(d time.Duration) time.Duration { return d.Round(time.Millisecond) }

// costs returns the cost of each kind of fault.
func (o outcome) costs() map[string]cost {
	costs := map[string]cost{}
	for _, r := range o.Records {
		c := costs[r.name()]
		c.times++
		c.passed += r.Passed + r.PassedAfter
		c.repaired, c.followed = max(c.repaired, r.Repaired.Sub(r.Healed)), max(c.followed, r.Followed.Sub(r.Repaired))
		for _, t := range o.Tracks {
			c.add(t, r.period())
		}
		costs[r.name()] = c
	}
	return costs
}

func (c *cost) add(t track, period span) {
	lost := 0
	for _, l := range t.Losses {
		if !l.At.Before(period.From) && l.At.Before(period.To) {
			lost++
		}
	}
	longest := time.Duration(0)
	for _, gap := range t.Gaps {
		longest = max(longest, gap.overlap(period).length())
	}
	if longest < remarkable {
		longest = 0
	}
	switch t.Class {
	case sessions:
		c.sessions += lost
		c.silence = max(c.silence, longest)
	case connections:
		c.connections += lost
		c.gap = max(c.gap, longest)
	case datagrams:
		c.datagrams += lost
		c.silence = max(c.silence, longest)
	case control:
	}
}

// markdown returns the whole report.
func (r *Report) markdown() string {
	var text strings.Builder
	fmt.Fprintf(&text, "%s\nSeed %d, %s, %d faults in %v.\n\n", r.Heading(), r.Seed, r.describe(), len(r.Records), r.Duration)
	text.WriteString("| fault | times | established connections lost | new connections failed | longest gap for new connections | longest silence of established ones | datagrams lost | forbidden packets passed | repaired within | next change followed within |\n")
	text.WriteString("|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n")
	costs := r.costs()
	// Pairs come last.
	names := slices.SortedFunc(maps.Keys(costs), func(a, b string) int {
		return cmp.Or(strings.Count(a, and)-strings.Count(b, and), cmp.Compare(a, b))
	})
	for _, name := range names {
		c := costs[name]
		fmt.Fprintf(&text, "| %s | %d | %d | %d | %s | %s | %d | %d | %s | %s |\n", name, c.times, c.sessions, c.connections,
			ms(c.gap), ms(c.silence), c.datagrams, c.passed, ms(c.repaired), ms(c.followed))
	}
	text.WriteString("\n" + r.totals() + "\n")
	text.WriteString(r.used())
	if len(r.Verdict) == 0 {
		text.WriteString("\n**Passed.**\n")
		return text.String()
	}
	fmt.Fprintf(&text, "\n**Failed**, for %d reasons:\n\n", len(r.Verdict))
	for _, reason := range r.Verdict {
		fmt.Fprintf(&text, "- %s\n", strings.ReplaceAll(reason, "\n", "\n  "))
	}
	return text.String()
}

// ends describes all lost sessions, whether or not the loss is allowed.
func (o outcome) ends() []string {
	var lines []string
	for _, t := range o.Tracks {
		for _, l := range t.Losses {
			if t.Class == sessions {
				lines = append(lines, fmt.Sprintf("a session to %s ended %s: %s", t.Path, o.after(l.At), l.Why))
			}
		}
	}
	return lines
}

// ms formats a time in milliseconds, or "-" for 0.
func ms(d time.Duration) string {
	if d == 0 {
		return "-"
	}
	return figures.Number(float64(d.Milliseconds())) + " ms"
}

// totals summarizes the traffic.
func (r *Report) totals() string {
	done, lost := map[class]int{}, map[class]int{}
	late := time.Duration(0)
	for _, t := range r.Tracks {
		done[t.Class] += t.Done
		lost[t.Class] += len(t.Losses)
		for _, gap := range t.Gaps {
			if t.Class == control {
				late = max(late, gap.length())
			}
		}
	}
	return fmt.Sprintf("Traffic: %s lines by sessions, %d lost; %s new connections, %d failed; %s datagrams, %d unanswered. "+
		"The longest gap past the gateway was %s, a delay of the machine itself. Gaps up to %v are left out.\n",
		figures.Number(float64(done[sessions])), lost[sessions], figures.Number(float64(done[connections])), lost[connections],
		figures.Number(float64(done[datagrams])), lost[datagrams], ms(late), remarkable)
}

// used returns a table of the resources in use at the start, at the peak and at the end.
func (r *Report) used() string {
	if len(r.Usage) == 0 {
		return ""
	}
	var text strings.Builder
	text.WriteString("\n| used | start | peak | end |\n|---|--:|--:|--:|\n")
	first, last := r.Usage[0], r.Usage[len(r.Usage)-1]
	for _, name := range slices.Sorted(maps.Keys(first.Values)) {
		most := 0.0
		for _, u := range r.Usage {
			most = max(most, u.Values[name])
		}
		fmt.Fprintf(&text, "| %s | %s | %s | %s |\n", name, figures.Number(first.Values[name]), figures.Number(most), figures.Number(last.Values[name]))
	}
	return text.String()
}

// write saves the report in dir and, if set, in the README readme.
func (r *Report) write(dir, readme string) error {
	text := r.markdown()
	path := filepath.Join(dir, r.name+".md")
	errs := []error{os.MkdirAll(dir, 0o755), os.WriteFile(path, []byte(text), 0o644)}
	if readme != "" {
		errs = append(errs, figures.ReplaceRun(readme, r.name, text))
	}
	fmt.Printf("\n%s\nReport: %s\n", text, path)
	return errors.Join(errs...)
}
