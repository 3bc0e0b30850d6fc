// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"flag"
	"math"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/smartnat/smartnat/pkg/source"
)

var update = flag.Bool("update", false, "write the golden files anew")

func TestQuantile(t *testing.T) {
	for _, test := range []struct {
		name   string
		values []float64
		q      float64
		want   float64
	}{
		{"nothing", nil, 0.5, math.NaN()},
		{"one", []float64{7}, 0.25, 7},
		{"odd, unsorted", []float64{3, 1, 2}, 0.5, 2},
		{"even", []float64{4, 1, 3, 2}, 0.5, 2.5},
		{"a quarter", []float64{10, 20, 30, 40, 50}, 0.25, 20},
		{"between", []float64{0, 10}, 0.75, 7.5},
		{"the last", []float64{1, 2, 3}, 1, 3},
	} {
		t.Run(test.name, func(t *testing.T) {
			before := append([]float64(nil), test.values...)
			if got := quantile(test.values, test.q); !cmp.Equal(got, test.want, cmpopts.EquateNaNs()) {
				t.Errorf("got %v, want %v", got, test.want)
			}
			if diff := cmp.Diff(before, test.values); diff != "" {
				t.Errorf("the values were changed:\n%s", diff)
			}
		})
	}
}

func TestSummary(t *testing.T) {
	// The machine is half as fast at the end as at the beginning, and the gateway always takes a tenth.
	s := series{
		Plain:   []float64{1000, 1000, 600, 500},
		Tracked: []float64{900, 900, 540, 450},
		Mapped:  []float64{900, 720, 495},
	}
	want := summary{Plain: 800, Tracked: 720, Mapped: 720, ToPlain: spread{0.9, 0.9, 0.9}, ToTracked: spread{1, 1, 1}}
	if diff := cmp.Diff(want, s.summary(), cmpopts.EquateApprox(0, 1e-9)); diff != "" {
		t.Error(diff)
	}
	// One takes 1,250 µs, and with the gateway a ninth more.
	if got := s.summary().more(); math.Abs(got-1250.0/9) > 1e-6 {
		t.Errorf("%v µs more, want %v", got, 1250.0/9)
	}
}

func TestNumber(t *testing.T) {
	for value, want := range map[float64]string{
		0: "0", 1: "1", 9.87: "9.9", 42: "42", 99.96: "100.0", 100.4: "100", 999: "999", 1000: "1,000", 10000: "10,000", 1234567.8: "1,234,568", math.NaN(): "-",
	} {
		if got := number(value); got != want {
			t.Errorf("number(%v) = %q, want %q", value, got, want)
		}
	}
}

func TestMarkdown(t *testing.T) {
	s := func(scale float64) measurement {
		clock := series{Plain: []float64{10000 * scale, 12000 * scale}, Tracked: []float64{9000 * scale, 9900 * scale}, Mapped: []float64{9500 * scale}}
		processor := clock
		processor.Mapped = []float64{9000 * scale}
		return measurement{Clock: clock, Processor: processor}
	}
	failed := s(1)
	failed.Failed = 3
	r := report{
		Date: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Machine: "a machine", Cores: 2, Kernel: "6.18", IPTables: "1.8.9", Seconds: 59.6,
		Load: [2]string{"0.10", "3.20"},
		Cases: []result{
			{Backend: "legacy", Family: "IPv4", Metrics: map[string]measurement{"connections": s(1)}},
			{Backend: "nft", Family: "IPv6", Ports: 10000, Metrics: map[string]measurement{"connections": failed, "exchanges": s(5), "stream": s(1e6)}},
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

// What is written for smartnatd is what it reads, and the load goes where that leads.
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
			t.Errorf("%d ports: the last Mapping has %d, want %d", ports, got, want.lastPorts)
		}
	}
	if got := podTargets("IPv6", trackedPods, 11); len(got) != 33 || got[30].String() != "[fd00:245:2::3]:8080" || got[2].String() != "[fd00:245:1::3]:8080" {
		t.Errorf("targets = %v", got)
	}
	if got := mappedTargets("198.51.100.10", 11); len(got) != 11 || got[10].String() != "198.51.100.10:20010" {
		t.Errorf("targets = %v", got)
	}
}
