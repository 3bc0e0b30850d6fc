// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"fmt"
	"math"
	"strings"

	"github.com/smartnat/smartnat/scripts/bench/figures"
	"github.com/smartnat/smartnat/scripts/bench/load"
	"github.com/smartnat/smartnat/scripts/bench/process"
)

// Report is the result of a run.
type Report struct {
	load.Run
	Plan plan `json:"plan"`
	// APIServer is the API server's memory with all objects and no watchers.
	APIServer process.Memory `json:"apiServer"`
	Relay     Relay          `json:"relay"`
	Lists     []Lists        `json:"lists"`
	Watched   []Watched      `json:"watched"`
	Storm     *Storm         `json:"storm,omitempty"`
}

// markdown renders the report.
func (r Report) markdown() string {
	var text strings.Builder
	text.WriteString(r.Heading())
	fmt.Fprintf(&text, "%s Services with %s endpoints in all, %s of the Services mapped; %s watchers.\n", count(r.Plan.Services),
		count(r.Plan.Services*r.Plan.Endpoints), count(r.Plan.Mapped), count(r.Plan.Watchers))
	r.goals(&text)
	r.relayTable(&text)
	r.listsTable(&text)
	r.watchedTable(&text)
	r.stormTable(&text)
	return text.String()
}

// goals adds the goals to the report of a full run, whose size they are defined for.
func (r Report) goals(text *strings.Builder) {
	if r.Quick || r.Storm == nil {
		return
	}
	peak, p99 := max(r.Relay.Memory.Peak, r.Storm.Memory.Peak), math.NaN()
	for _, w := range r.Watched {
		if w.Server == relayName {
			peak, p99 = max(peak, w.After.Peak), w.P99
		}
	}
	text.WriteString("\n### Goals\n\n| | goal | seen |\n|---|---:|---:|\n")
	fmt.Fprintf(text, "| memory of the relay at its highest, MB | 150 | %s |\n", figures.Number(peak))
	fmt.Fprintf(text, "| p99 from write to event, ms | 100 | %s |\n", figures.Number(p99))
	for _, l := range r.Lists {
		fmt.Fprintf(text, "| first sync, %s, of the API server's, %% | 5 | %.1f |\n", l.Name, 100*l.share())
	}
}

func (r Report) relayTable(text *strings.Builder) {
	text.WriteString("\n### The relay without watchers\n\n")
	text.WriteString("| ready after, s | processor until quiet, s | RSS (its own + files), MB | peak, MB | idle, % of a core | a change of an unmapped Service, ms of processor | RSS of kube-apiserver, MB |\n")
	text.WriteString("|---:|---:|---:|---:|---:|---:|---:|\n")
	fmt.Fprintf(text, "| %.2f | %.2f | %s | %s | %.2f | %.2f | %s |\n", r.Relay.Seconds, r.Relay.CPU, resident(r.Relay.Memory),
		figures.Number(r.Relay.Memory.Peak), r.Relay.Idle, r.Relay.PerChange, figures.Number(r.APIServer.RSS))
}

func (r Report) listsTable(text *strings.Builder) {
	text.WriteString("\n### First sync of one gateway, kB received\n\n")
	text.WriteString("| encoding | kube-apiserver: Services | EndpointSlices | together | relay: Services | EndpointSlices | Mappings | together | share |\n")
	text.WriteString("|---|---:|---:|---:|---:|---:|---:|---:|---:|\n")
	for _, l := range r.Lists {
		fmt.Fprintf(text, "| %s | %s | %s | %s | %s | %s | %s | %s | **%.1f %%** |\n", l.Name,
			kB(l.APIServer[services]), kB(l.APIServer[endpointSlices]), kB(sum(l.APIServer)),
			kB(l.Relay[services]), kB(l.Relay[endpointSlices]), kB(l.Relay[mappings]), kB(sum(l.Relay)), 100*l.share())
	}
}

func (r Report) watchedTable(text *strings.Builder) {
	fmt.Fprintf(text, "\n### Watchers: from write to event, %s writes\n\n", count(r.Plan.Writes))
	text.WriteString("| | median, ms | p99 | longest | the last watcher's, median | events missing | answer to the write, ms | bytes an event | processor an event, µs | kB at first | all open after, s | processor for that, s | RSS (its own + files) before, MB | with them | peak | kB a watcher |\n")
	text.WriteString("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n")
	for _, w := range r.Watched {
		cells := []string{
			w.Server, figures.Number(w.Median), "**" + figures.Number(w.P99) + "**", figures.Number(w.Last), figures.Number(w.Slowest), count(w.Missing),
			figures.Number(figures.Quantile(w.Written, 0.5)), figures.Number(w.EventBytes), figures.Number(w.EventCPU), kB(int64(w.InitialBytes)),
			fmt.Sprintf("%.2f", w.Opened/1000), fmt.Sprintf("%.2f", w.OpenedCPU), resident(w.Before), resident(w.After),
			figures.Number(w.After.Peak), figures.Number(w.perWatcher(r.Plan.Watchers)),
		}
		fmt.Fprintf(text, "| %s |\n", strings.Join(cells, " | "))
	}
}

func (r Report) stormTable(text *strings.Builder) {
	if r.Storm == nil {
		return
	}
	s := r.Storm
	text.WriteString("\n### The relay is killed and started again under its watchers\n\n")
	text.WriteString("| ready after, s | median watcher has all again, s | p99 | last | kB a watcher | processor, s | RSS (its own + files), MB | peak, MB | requests refused | connections broken |\n")
	text.WriteString("|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n")
	fmt.Fprintf(text, "| %.2f | %.2f | %.2f | %.2f | %s | %.2f | %s | %s | %s | %s |\n", s.Ready, s.Median, s.P99, s.Last, kB(int64(s.Bytes)), s.CPU,
		resident(s.Memory), figures.Number(s.Memory.Peak), count(int(s.Refused)), count(int(s.Broken)))
}

func kB(bytes int64) string { return figures.Number(float64(bytes) / 1000) }
func count(n int) string    { return figures.Number(float64(n)) }

// resident formats RSS and its parts. The kernel reports no parts for the peak.
func resident(m process.Memory) string {
	return fmt.Sprintf("%s (%s + %s)", figures.Number(m.RSS), figures.Number(m.Anon), figures.Number(m.File))
}

// write writes the report to files and, unless readme is "", into a README.
func (r Report) write(dir, readme string) error {
	return figures.Write(dir, "relay", r, r.markdown(), readme)
}
