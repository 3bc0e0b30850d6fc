// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/smartnat/smartnat/scripts/bench/figures"
)

// markdown renders the report.
func (r Report) markdown() string {
	var text strings.Builder
	text.WriteString(r.Heading())
	r.mainTables(&text)
	r.ratiosTable(&text)
	r.stagesTable(&text)
	r.idleTable(&text)
	r.failures(&text)
	return text.String()
}

// sorted returns the results by scene and ports.
func (r Report) sorted() []Result {
	results := slices.Clone(r.Results)
	slices.SortStableFunc(results, func(a, b Result) int {
		if a.scenery != b.scenery {
			return 0 // keep the order of scenes
		}
		return a.Ports - b.Ports
	})
	return results
}

func (r Report) mainTables(text *strings.Builder) {
	text.WriteString("\n### Start and change\n\n")
	text.WriteString("| scene | ports | | back end | start, s | all within | processor, s | change, ms | half within | p99 | changes | processor, ms |\n")
	text.WriteString("|---|---:|---|---|---:|---|---:|---:|---|---:|---:|---:|\n")
	for _, c := range r.sorted() {
		fmt.Fprintf(text, "| %s |\n", strings.Join(slices.Concat(c.nameCells(), c.startCells(), c.changeCells()), " | "))
	}
	text.WriteString("\n### New connections, and size\n\n")
	text.WriteString("| scene | ports | | back end | ratio to tracked | half within | by processor | ratio to routed | by processor | RSS, MB | PSS, MB | chains | rules |\n")
	text.WriteString("|---|---:|---|---|---:|---|---:|---:|---:|---:|---:|---:|---:|\n")
	for _, c := range r.sorted() {
		if c.Connections != nil {
			fmt.Fprintf(text, "| %s |\n", strings.Join(slices.Concat(c.nameCells(), c.connectionCells(), c.sizeCells()), " | "))
		}
	}
}

func (r Result) nameCells() []string {
	return []string{r.scenery.String(), figures.Number(float64(r.Ports)), r.Name, r.Backend}
}

func (r Result) startCells() []string {
	if len(r.Starts) == 0 || r.capped("start") {
		return []string{r.startText(), "-", "-"}
	}
	return []string{"**" + r.startText() + "**", seconds(slices.Min(r.Starts)) + " - " + seconds(slices.Max(r.Starts)), seconds(figures.Quantile(r.StartCPU, 0.5))}
}

func (r Result) changeCells() []string {
	if len(r.Changes) == 0 || r.capped("change") {
		return []string{r.changeText(0.5), "-", "-", "-", "-"}
	}
	half := figures.SpreadOf(r.Changes)
	return []string{
		"**" + r.changeText(0.5) + "**", figures.Number(half.Low) + " - " + figures.Number(half.High), r.changeText(0.99),
		figures.Number(float64(len(r.Changes))), figures.Number(r.ChangeCPU),
	}
}

func (r Result) connectionCells() []string {
	clock, processor := r.Connections.Clock.Summary(), r.Connections.Processor.Summary()
	first := fmt.Sprintf("**%.2f**", clock.ToTracked.Median)
	if r.Connections.Failed > 0 {
		first += fmt.Sprintf(" (%d failed)", r.Connections.Failed)
	}
	return []string{
		first, fmt.Sprintf("%.2f - %.2f", clock.ToTracked.Low, clock.ToTracked.High), fmt.Sprintf("%.2f", processor.ToTracked.Median),
		fmt.Sprintf("%.2f", clock.ToPlain.Median), fmt.Sprintf("%.2f", processor.ToPlain.Median),
	}
}

func (r Result) sizeCells() []string {
	cells := []string{"-", "-", "-", "-"}
	if r.Memory != nil {
		cells[0], cells[1] = figures.Number(r.Memory.RSS), figures.Number(r.Memory.PSS)
	}
	if r.Rules > 0 {
		cells[2], cells[3] = figures.Number(float64(r.Chains)), figures.Number(float64(r.Rules))
	}
	return cells
}

// ratiosTable compares SmartNat with manually loaded rules, to show what it adds to the cost of the kernel and iptables.
func (r Report) ratiosTable(text *strings.Builder) {
	var rows []string
	for _, c := range r.sorted() {
		byHands := c.scenery // its rules only affect forwarded connections
		byHands.ForwardedOnly = false
		i := slices.IndexFunc(r.Results, func(hand Result) bool {
			return hand.Contender == Contender{byHand, c.Backend} && hand.scenery == byHands && hand.Ports == c.Ports
		})
		if c.Name != smartnat || i < 0 || len(c.Capped)+len(r.Results[i].Capped) > 0 {
			continue
		}
		hand := r.Results[i]
		rows = append(rows, fmt.Sprintf("| %s | %s | %s | %s | %s | %s |\n", c.scenery, figures.Number(float64(c.Ports)), c.Backend,
			ratio(figures.Quantile(c.Starts, 0.5), figures.Quantile(hand.Starts, 0.5)),
			ratio(figures.Quantile(c.Changes, 0.5), figures.Quantile(hand.Changes, 0.5)), ratio(c.ChangeCPU, hand.ChangeCPU)))
	}
	if len(rows) > 0 {
		text.WriteString("\n### smartnat as a multiple of iptables-restore by hand\n\n| scene | ports | back end | start | change | processor of a change |\n|---|---:|---|---:|---:|---:|\n")
		text.WriteString(strings.Join(rows, ""))
	}
}

func ratio(a, b float64) string {
	if math.IsNaN(a) || math.IsNaN(b) || b == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f", a/b)
}

// stagesTable shows the stages of a change.
func (r Report) stagesTable(text *strings.Builder) {
	var rows []string
	for _, c := range r.sorted() {
		if len(c.Stages) == 0 {
			continue
		}
		cells := []string{c.scenery.String(), figures.Number(float64(c.Ports)), c.Backend, stageCell(c.Changes)}
		for _, name := range stageNames() {
			cells = append(cells, stageCell(c.Stages[name]))
		}
		rows = append(rows, "| "+strings.Join(cells, " | ")+" |\n")
	}
	if len(rows) == 0 {
		return
	}
	names := stageNames()
	text.WriteString("\n### Where the milliseconds of a change go: smartnat, p50 / p99\n\n")
	fmt.Fprintf(text, "| scene | ports | back end | all | %s |\n|---|---:|---|%s\n", strings.Join(names, " | "), strings.Repeat("---:|", len(names)+1))
	text.WriteString(strings.Join(rows, ""))
}

func stageCell(values []float64) string {
	if len(values) == 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f / %.1f", figures.Quantile(values, 0.5), figures.Quantile(values, 0.99))
}

func (r Report) idleTable(text *strings.Builder) {
	first := true
	for _, c := range r.sorted() {
		if c.Idle == nil {
			continue
		}
		if first {
			text.WriteString("\n### Idle: smartnat while nothing changes\n\n| ports | back end | seconds | of a core, % | bytes to disk | calls of write | rules written |\n|---:|---|---:|---:|---:|---:|---:|\n")
			first = false
		}
		fmt.Fprintf(text, "| %s | %s | %s | %.2f | %s | %s | %d |\n", figures.Number(float64(c.Ports)), c.Backend, figures.Number(c.Idle.Seconds),
			c.Idle.Core, figures.Number(float64(c.Idle.Written)), figures.Number(float64(c.Idle.Writes)), c.Idle.Restores)
	}
}

func (r Report) failures(text *strings.Builder) {
	for _, c := range r.sorted() {
		if c.Failed != "" {
			fmt.Fprintf(text, "\n**Failed**: %s, %s ports (%s): %s\n", c.Contender, figures.Number(float64(c.Ports)), c.scenery, c.Failed)
		}
	}
}
