// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/smartnat/smartnat/scripts/bench/load"
)

// report is the result of a run.
type report struct {
	load.Run
	Sessions int      `json:"sessions"`
	Advert   float64  `json:"advert"`
	Cases    []result `json:"cases"`
}

// result is a row of the table. Times are in seconds.
type result struct {
	Plane string `json:"plane"`
	Case  string `json:"case"`
	// Alive is the number of Sessions that lived on, and Lost why others did not.
	Sessions int            `json:"sessions"`
	Alive    int            `json:"alive"`
	Lost     map[string]int `json:"lost,omitempty"`
	// Silence is the median of the longest time that each session waited for an answer, and MaxSilence the longest of all.
	Silence    float64 `json:"silence"`
	MaxSilence float64 `json:"maxSilence"`
	// Flow is the longest time between two answers in a flow of datagrams, and Moved the number of flows whose source or pod changed.
	Flow  float64 `json:"flow"`
	Moved int     `json:"moved"`
	// Fresh is the longest time in which no new connection was complete. Of new connections, Failed got no answer.
	Fresh  float64 `json:"fresh"`
	Opened int     `json:"opened"`
	Failed int     `json:"failed"`
	// Failures has the reasons of Failed.
	Failures map[string]int `json:"failures,omitempty"`
	// Both is the longest time in which both boxes had the same address.
	Both float64 `json:"both"`
	// Copying is the processor time of conntrackd for a new flow, on both boxes, or 0 if it was not measured.
	Copying float64 `json:"copying,omitempty"`
}

// adverts is the goal for the time in which both boxes have an address, in adverts.
const adverts = 3

// goal returns the longest interruption that is aimed at, in seconds.
func (r report) goal() float64 {
	if r.Advert <= 0.05 {
		return 0.3
	}
	return 0.5
}

// markdown renders the report. Figures that miss their goal are bold.
func (r report) markdown() string {
	var text strings.Builder
	text.WriteString(r.Heading())
	fmt.Fprintf(&text, "\n%d sessions, adverts of %g s. Goals: all sessions, an interruption of at most %g s, and both boxes with an address for at most %.2g s.\n",
		r.Sessions, r.Advert, r.goal(), adverts*r.Advert)
	text.WriteString("\n| data plane | case | sessions | interruption of flows, s | flows moved | no new connection, s | sessions wait, median, s | longest, s | new connections | failed | both, s |\n")
	text.WriteString("|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n")
	for _, c := range r.Cases {
		fmt.Fprintf(&text, "| %s | %s | %s | %s | %s | %.2f | %.2f | %.2f | %d | %s | %s |\n", c.Plane, c.Case,
			missed(c.Alive < c.Sessions, "%d of %d", c.Alive, c.Sessions), missed(c.Flow > r.goal(), "%.2f", c.Flow), missed(c.Moved > 0, "%d", c.Moved), c.Fresh, c.Silence, c.MaxSilence,
			c.Opened, missed(c.Failed > 0, "%d", c.Failed), missed(c.Both > adverts*r.Advert, "%.2f", c.Both))
	}
	for _, c := range r.Cases {
		if c.Copying > 0 {
			fmt.Fprintf(&text, "\n%s: a new flow costs both conntrackd together %.0f µs of processor time.\n", c.Plane, c.Copying*1e6)
		}
	}
	return text.String()
}

func missed(bold bool, format string, args ...any) string {
	text := fmt.Sprintf(format, args...)
	if bold {
		return "**" + text + "**"
	}
	return text
}

// progress returns a result on one line.
func (c result) progress() string {
	text := fmt.Sprintf("%-9s %-44s %d of %d alive, flows interrupted %.2f s (%d moved), no new connection %.2f s, sessions wait %.2f to %.2f s, %d new, %d failed, both %.2f s",
		c.Plane, c.Case, c.Alive, c.Sessions, c.Flow, c.Moved, c.Fresh, c.Silence, c.MaxSilence, c.Opened, c.Failed, c.Both)
	for _, why := range slices.Sorted(maps.Keys(c.Lost)) {
		text += fmt.Sprintf("\n    %d lost: %s", c.Lost[why], why)
	}
	for _, why := range slices.Sorted(maps.Keys(c.Failures)) {
		text += fmt.Sprintf("\n    %d not opened: %s", c.Failures[why], why)
	}
	return text
}
