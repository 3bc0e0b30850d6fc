// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"encoding/xml"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/smartnat/smartnat/scripts/bench/figures"
	"github.com/smartnat/smartnat/scripts/bench/load"
	"github.com/smartnat/smartnat/scripts/bench/process"
)

var update = flag.Bool("update", false, "update the golden files")

// testReport returns a report with a result of each kind.
func testReport() Report {
	series := figures.Series{Plain: []float64{10000, 12000}, Tracked: []float64{9000, 9900}, Mapped: []float64{9500}}
	slower := series
	slower.Mapped = []float64{9000}
	complete := Result{
		Contender: Contender{smartnat, "legacy"}, scenery: usual, Ports: 1000,
		Starts: []float64{0.5, 0.25, 0.75}, StartCPU: []float64{0.1, 0.2, 0.3}, Changes: []float64{10, 20, 30, 40, 50}, ChangeCPU: 12.5,
		Stages:      map[string][]float64{"apiserver": {-0.25}, "relay": {1, 2, 3}, "restore": {30, 40}, withoutRestore: {5, 6, 7}},
		Connections: &figures.Measurement{Clock: series, Processor: slower},
		Memory:      &process.Memory{RSS: 41.5, Peak: 50, PSS: 40.25}, Chains: 143, Rules: 3100,
		Idle: &idle{Seconds: 30, Core: 0.0333, Written: 4096, Writes: 12, Restores: 1},
	}
	larger, failed := complete, complete
	larger.Ports, larger.Idle, larger.Starts = 10000, nil, []float64{2}
	failed.Contender, failed.scenery, failed.Stages, failed.Idle = Contender{kubeProxy, "nft"}, full().variants[1], nil, nil
	forwarded := larger
	forwarded.ForwardedOnly, forwarded.ChangeCPU, forwarded.Connections = true, 11, nil
	failed.Connections = &figures.Measurement{Clock: series, Processor: slower, Failed: 3}
	failed.Failed = "something is wrong"
	return Report{
		Run: load.Run{
			Date: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Machine: "a machine", Cores: 2, Kernel: "6.18", IPTables: "1.8.9", Seconds: 59.6,
			Load: [2]string{"0.10", "3.20"},
		},
		Results: []Result{
			larger, complete,
			{Contender: Contender{kubeProxy, "nft"}, scenery: usual, Ports: 10000, Capped: []string{"start"}, Cap: 60},
			{Contender: Contender{byHand, "legacy"}, scenery: usual, Ports: 1000, Starts: []float64{12.5}, StartCPU: []float64{0.1}, Changes: []float64{1}, Capped: []string{"change"}, Cap: 60},
			{Contender: Contender{byHand, "legacy"}, scenery: usual, Ports: 10000, Starts: []float64{0.5}, StartCPU: []float64{0.4}, Changes: []float64{24}, ChangeCPU: 10},
			forwarded, failed,
		},
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", name, diff)
	}
}

func TestMarkdown(t *testing.T) {
	r := testReport()
	text := r.markdown()
	for _, result := range r.Results {
		text += "\n" + result.progress() + "\n"
	}
	golden(t, "report.md", text)
}

func TestCurves(t *testing.T) {
	for _, c := range append(testReport().curves(), curve{name: "none", title: "a < b"}) {
		text := c.svg()
		decoder := xml.NewDecoder(strings.NewReader(text))
		for {
			if _, err := decoder.Token(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("%s: %v", c.name, err)
			}
		}
		if c.name == "start" {
			golden(t, "start.svg", text)
		}
	}
}
