// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strings"

	"github.com/smartnat/smartnat/scripts/bench/figures"
	"github.com/smartnat/smartnat/scripts/bench/load"
)

// report is the result of a run.
type report struct {
	load.Run
	Cases []result `json:"cases"`
}

// result is one row of each table.
type result struct {
	Backend string `json:"backend"`
	Family  string `json:"family"`
	// Ports is 0 for the manual rules.
	Ports int `json:"ports"`
	// Ready is the time in seconds until smartnatd was ready, for both families.
	Ready float64 `json:"ready"`
	// Metrics maps the name of a metric to its values.
	Metrics map[string]figures.Measurement `json:"metrics"`
}

// metric describes one measured quantity.
type metric struct {
	name, title, unit string
	scale             float64 // the unit in base units
	perOne            bool    // whether the cost of one operation is shown
}

// metrics returns the metrics in the order of the tables.
func metrics() []metric {
	return []metric{
		{"connections", "First packet: new connections (connect, a byte to and fro, reset)", "connections/s", 1, true},
		{"exchanges", "Established, small packets: a byte to and fro on open connections", "exchanges/s", 1, true},
		{"stream", "Established, bulk: one TCP stream", "Gbit/s", 1e9, false},
	}
}

// markdown renders the report.
func (r report) markdown() string {
	var text strings.Builder
	text.WriteString(r.Heading())
	for _, m := range metrics() {
		r.table(&text, m)
	}
	return text.String()
}

func (r report) table(text *strings.Builder, m metric) {
	more, line := "", ""
	if m.perOne {
		more, line = " µs more for one |", "---:|"
	}
	fmt.Fprintf(text, "\n### %s, %s\n\n", m.title, m.unit)
	fmt.Fprintf(text, "| back end | family | ports | routed | tracked | by the gateway | ratio to routed | half within | ratio to tracked | half within | by processor: to routed | to tracked |%s\n", more)
	fmt.Fprintf(text, "|---|---|---:|---:|---:|---:|---:|---|---:|---|---:|---:|%s\n", line)
	for _, c := range r.Cases {
		got, ok := c.Metrics[m.name]
		if !ok {
			continue
		}
		clock, processor := got.Clock.Summary(), got.Processor.Summary()
		mapped := figures.Number(clock.Mapped / m.scale)
		if got.Failed > 0 {
			mapped += fmt.Sprintf(" (%d failed)", got.Failed)
		}
		fmt.Fprintf(text, "| %s | %s | %s | %s | %s | %s | **%.2f** | %.2f - %.2f | **%.2f** | %.2f - %.2f | %.2f | %.2f |", c.Backend, c.Family, portsText(c.Ports),
			figures.Number(clock.Plain/m.scale), figures.Number(clock.Tracked/m.scale), mapped,
			clock.ToPlain.Median, clock.ToPlain.Low, clock.ToPlain.High, clock.ToTracked.Median, clock.ToTracked.Low, clock.ToTracked.High,
			processor.ToPlain.Median, processor.ToTracked.Median)
		if m.perOne {
			fmt.Fprintf(text, " %.1f |", processor.More())
		}
		text.WriteString("\n")
	}
}

// progress returns a result on one line.
func (c result) progress() string {
	parts := []string{}
	for _, m := range metrics() {
		if got, ok := c.Metrics[m.name]; ok {
			clock, processor := got.Clock.Summary(), got.Processor.Summary()
			part := fmt.Sprintf("%s %s = %.2f of routed, %.2f of tracked (processor %.2f, %.2f)", figures.Number(clock.Mapped/m.scale), m.unit,
				clock.ToPlain.Median, clock.ToTracked.Median, processor.ToPlain.Median, processor.ToTracked.Median)
			if got.Failed > 0 {
				part += fmt.Sprintf(" (%d failed)", got.Failed)
			}
			parts = append(parts, part)
		}
	}
	return fmt.Sprintf("%-6s %s %7s ports: %s", c.Backend, c.Family, portsText(c.Ports), strings.Join(parts, "; "))
}

func portsText(n int) string {
	if n == 0 {
		return "by hand"
	}
	return figures.Number(float64(n))
}
