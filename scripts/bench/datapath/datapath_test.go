// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"flag"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/smartnat/smartnat/pkg/source"
	"github.com/smartnat/smartnat/scripts/bench/figures"
	"github.com/smartnat/smartnat/scripts/bench/load"
)

var update = flag.Bool("update", false, "update the golden files")

func TestMarkdown(t *testing.T) {
	s := func(scale float64) figures.Measurement {
		clock := figures.Series{Plain: []float64{10000 * scale, 12000 * scale}, Tracked: []float64{9000 * scale, 9900 * scale}, Mapped: []float64{9500 * scale}}
		processor := clock
		processor.Mapped = []float64{9000 * scale}
		return figures.Measurement{Clock: clock, Processor: processor}
	}
	failed := s(1)
	failed.Failed = 3
	r := report{
		Run: load.Run{
			Date: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Machine: "a machine", Cores: 2, Kernel: "6.18", IPTables: "1.8.9", Seconds: 59.6,
			Load: [2]string{"0.10", "3.20"},
		},
		Cases: []result{
			{Backend: "legacy", Family: "IPv4", Metrics: map[string]figures.Measurement{"connections": s(1)}},
			{Backend: "nft", Family: "IPv6", Ports: 10000, Metrics: map[string]figures.Measurement{"connections": failed, "exchanges": s(5), "stream": s(1e6)}},
		},
	}
	const golden = "testdata/report.md"
	got := r.markdown()
	for _, c := range r.Cases {
		got += "\n" + c.progress() + "\n"
	}
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestManifests: smartnatd reads the manifests as intended.
func TestManifests(t *testing.T) {
	for ports, want := range map[int]struct{ mappings, lastPorts int }{1: {1, 1}, 10: {1, 10}, 25: {3, 5}, 200: {20, 10}} {
		snapshot, err := source.ReadFiles([]string{"-"}, strings.NewReader(manifests([]string{"198.51.100.10", "2001:db8:1::10"}, ports)))
		if err != nil {
			t.Fatal(err)
		}
		if got := len(snapshot.Mappings); got != want.mappings {
			t.Errorf("%d ports: %d Mappings, want %d", ports, got, want.mappings)
		}
		if got := len(snapshot.EndpointSlices); got != 2*want.mappings {
			t.Errorf("%d ports: %d EndpointSlices, want %d", ports, got, 2*want.mappings)
		}
		last := snapshot.Mappings[len(snapshot.Mappings)-1]
		if got := len(last.Spec.Ports); got != want.lastPorts {
			t.Errorf("%d ports: the last Mapping has %d ports, want %d", ports, got, want.lastPorts)
		}
	}
}
