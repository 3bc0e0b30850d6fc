// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/smartnat/smartnat/scripts/bench/figures"
	"github.com/smartnat/smartnat/scripts/bench/load"
	"github.com/smartnat/smartnat/scripts/bench/process"
)

// Report is a run.
type Report struct {
	load.Run
	Results []Result `json:"results"`
}

// Result is one contender at one number of ports. Times are in milliseconds but for those of starts, which are in seconds.
type Result struct {
	Contender
	scenery
	Ports int `json:"ports"`
	// Starts are how long it took from the start of the program to the answer of the last port, and StartCPU the processor
	// time until all was quiet.
	Starts   []float64 `json:"starts"`
	StartCPU []float64 `json:"startCPU"`
	// Changes are from the API server's answer to the first connection that reached the moved endpoint; ChangeCPU is the
	// processor time for one.
	Changes     []float64            `json:"changes"`
	ChangeCPU   float64              `json:"changeCPU"`
	Stages      map[string][]float64 `json:"stages,omitempty"`
	Connections *figures.Measurement `json:"connections,omitempty"`
	Memory      *process.Memory      `json:"memory,omitempty"`
	Idle        *idle                `json:"idle,omitempty"`
	Rules       int                  `json:"rules,omitempty"`
	Chains      int                  `json:"chains,omitempty"`
	// Capped names what was given up after Cap seconds, and what would have followed it is not there.
	Capped []string `json:"capped,omitempty"`
	Cap    float64  `json:"cap"`
	// Said are the last lines that a capped contender logged.
	Said   string `json:"said,omitempty"`
	Failed string `json:"failed,omitempty"`
}

func (r Result) capped(what string) bool { return slices.Contains(r.Capped, what) }

// progress is a result on one line.
func (r Result) progress() string {
	parts := []string{"start " + r.startText() + " s"}
	if len(r.Changes) > 0 || r.capped("change") {
		parts = append(parts, fmt.Sprintf("change %s ms (%d of them, p99 %s), processor %s ms", r.changeText(0.5), len(r.Changes), r.changeText(0.99), figures.Number(r.ChangeCPU)))
	}
	if r.Connections != nil {
		clock, processor := r.Connections.Clock.Summary(), r.Connections.Processor.Summary()
		parts = append(parts, fmt.Sprintf("connections %.2f of tracked routing (processor %.2f)", clock.ToTracked.Median, processor.ToTracked.Median))
	}
	if r.Memory != nil {
		parts = append(parts, figures.Number(r.Memory.RSS)+" MB")
	}
	if r.Idle != nil {
		parts = append(parts, fmt.Sprintf("idle %.2f %% of a core", r.Idle.Core))
	}
	if r.Failed != "" {
		parts = append(parts, "FAILED: "+r.Failed)
	}
	if r.Said != "" {
		parts = append(parts, "it said last: "+r.Said)
	}
	return fmt.Sprintf("%-16s %-8s %7s ports (%s): %s", r.Name, r.Backend, figures.Number(float64(r.Ports)), r.scenery, strings.Join(parts, "; "))
}

// startText is the median, or that it took too long.
func (r Result) startText() string {
	if r.capped("start") {
		return fmt.Sprintf("> %.0f (capped)", r.Cap)
	}
	return seconds(figures.Quantile(r.Starts, 0.5))
}

func (r Result) changeText(q float64) string {
	if r.capped("change") {
		return fmt.Sprintf("> %s (capped)", figures.Number(1000*r.Cap))
	}
	return figures.Number(figures.Quantile(r.Changes, q))
}

func seconds(v float64) string {
	if v < 10 {
		return fmt.Sprintf("%.2f", v)
	}
	return figures.Number(v)
}

// write puts the report into files, with the curves, and into a README when one is named.
func (r Report) write(dir, readme string) error {
	errs := []error{figures.Write(dir, "scale", r, r.markdown(), readme)}
	for _, curve := range r.curves() {
		errs = append(errs, os.WriteFile(filepath.Join(dir, "scale-"+curve.name+".svg"), []byte(curve.svg()), 0o644))
	}
	return errors.Join(errs...)
}
