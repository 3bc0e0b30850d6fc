// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"slices"
	"testing"
	"time"

	"github.com/smartnat/smartnat/scripts/lab"
)

func TestMain(m *testing.M) { lab.Main(m) }

// TestSmoke does a short run with a fixed seed for each data plane: no failure is allowed.
func TestSmoke(t *testing.T) {
	lab.Require(t)
	for _, dataplane := range []string{planeIPTables, planeNFTables} {
		t.Run(dataplane, func(t *testing.T) { smoke(t, dataplane) })
	}
}

func smoke(t *testing.T, dataplane string) {
	t.Helper()
	p := plan{
		name: "chaos", Seed: 1, Duration: 10 * time.Second, least: 3, Dataplane: dataplane, Variant: "nf_tables", Growth: bounds, pairs: 3,
		tempo: tempo{pause: [2]time.Duration{200 * time.Millisecond, 500 * time.Millisecond}, hold: [2]time.Duration{300 * time.Millisecond, time.Second}},
	}
	p.faults = choose(func(f fault) bool { return f.quick && p.applies(f) })
	report, err := run(p, func(line string) { t.Log(line) })
	if err != nil {
		t.Fatal(err)
	}
	t.Log(report.markdown())
	for _, reason := range report.Verdict {
		t.Error(reason)
	}
	if len(report.Records) < p.least {
		t.Errorf("%d faults, want at least %d", len(report.Records), p.least)
	}
	for _, c := range []class{connections, sessions, datagrams, control} {
		if !slices.ContainsFunc(report.Tracks, func(t track) bool { return t.Class == c && t.Done > 50 }) {
			t.Errorf("too little traffic: %s", c)
		}
	}
}
