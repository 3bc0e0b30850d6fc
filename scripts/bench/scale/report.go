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

// Report is the result of a run.
type Report struct {
	load.Run
	Results []Result `json:"results"`
}

// Result is the result of one contender with one number of ports. Times are in milliseconds, but start times are in seconds.
type Result struct {
	Contender
	scenery
	Ports int `json:"ports"`
	// Starts are the times from the start of the program to the answer of the last port. StartCPU is the processor time until
	// idle.
	Starts   []float64 `json:"starts"`
	StartCPU []float64 `json:"startCPU"`
	// Changes are the times from the API server's response to the first connection to the moved endpoint. ChangeCPU is the
	// processor time of one change.
	Changes     []float64            `json:"changes"`
	ChangeCPU   float64              `json:"changeCPU"`
	Stages      map[string][]float64 `json:"stages,omitempty"`
	Connections *figures.Measurement `json:"connections,omitempty"`
	Memory      *process.Memory      `json:"memory,omitempty"`
	Idle        *idle                `json:"idle,omitempty"`
	Rules       int                  `json:"rules,omitempty"`
	Chains      int                  `json:"chains,omitempty"`
	// Capped lists the measurements that were abandoned after Cap seconds. Later ones are missing.
	Capped []string `json:"capped,omitempty"`
	Cap    float64  `json:"cap"`
	// Said are the last log lines of a capped contender.
	Said   string `json:"said,omitempty"`
	Failed string `json:"failed,omitempty"`
}

func (r Result) capped(what string) bool { return slices.Contains(r.Capped, what) }

// progress returns a result on one line.
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
		parts = append(parts, "its last log lines: "+r.Said)
	}
	return fmt.Sprintf("%-16s %-8s %7s ports (%s): %s", r.Name, r.Backend, figures.Number(float64(r.Ports)), r.scenery, strings.Join(parts, "; "))
}

// startText returns the median, or that the cap was exceeded.
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

// write writes the report and the curves to files and, unless readme is "", the text into a README.
func (r Report) write(dir, readme string) error {
	errs := []error{figures.Write(dir, "scale", r, r.markdown(), readme)}
	for _, curve := range r.curves() {
		errs = append(errs, os.WriteFile(filepath.Join(dir, "scale-"+curve.name+".svg"), []byte(curve.svg()), 0o644))
	}
	return errors.Join(errs...)
}
