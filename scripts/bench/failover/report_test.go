// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"strings"
	"testing"
)

// TestMarkdown expects what misses a goal in bold, and nothing else.
func TestMarkdown(t *testing.T) {
	good := result{Plane: "nftables", Case: "c", Sessions: 500, Alive: 500, Flow: 0.5, Both: 0.29, Fresh: 2, MaxSilence: 2, Copying: 0.0001}
	for name, test := range map[string]struct {
		change func(r *report, c *result)
		want   string
	}{
		"all goals are met":           {func(*report, *result) {}, "| nftables | c | 500 of 500 | 0.50 | 0 | 2.00 | 0.00 | 2.00 | 0 | 0 | 0.29 |"},
		"a session is lost":           {func(_ *report, c *result) { c.Alive = 499 }, "| **499 of 500** |"},
		"a long interruption":         {func(_ *report, c *result) { c.Flow = 0.51 }, "| **0.51** |"},
		"with more frequent ones":     {func(r *report, c *result) { r.Advert, c.Flow, c.Both = 0.05, 0.31, 0 }, "| **0.31** |"},
		"a flow comes from elsewhere": {func(_ *report, c *result) { c.Moved = 1 }, "| **1** |"},
		"a connection fails":          {func(_ *report, c *result) { c.Failed = 2 }, "| **2** |"},
		"two primaries":               {func(_ *report, c *result) { c.Both = 0.31 }, "| **0.31** |"},
	} {
		t.Run(name, func(t *testing.T) {
			r, c := report{Sessions: 500, Advert: 0.1}, good
			test.change(&r, &c)
			r.Cases = []result{c}
			text := r.markdown()
			if want := strings.Count(test.want, "**"); !strings.Contains(text, test.want) || strings.Count(text, "**") != want {
				t.Errorf("want %s in:\n%s", test.want, text)
			}
			if !strings.Contains(text, "nftables: a new flow costs both conntrackd together 100 µs of processor time.") {
				t.Errorf("no cost of a flow:\n%s", text)
			}
		})
	}
}

// TestCases checks that -only can name each case, and that cases with the same keys of ha are together.
func TestCases(t *testing.T) {
	names, before, seen := map[string]bool{}, "", map[string]bool{}
	for _, c := range cases() {
		if c.name == "" || names[c.name] || c.fault == nil {
			t.Errorf("%q: no name of its own, or no fault", c.name)
		}
		if names[c.name] = true; c.ha != before && seen[c.ha] {
			t.Errorf("%q needs another pair again", c.name)
		}
		before, seen[c.ha] = c.ha, true
	}
}
