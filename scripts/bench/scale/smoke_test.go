// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"context"
	"testing"
	"time"

	"github.com/smartnat/smartnat/pkg/testenv"
	"github.com/smartnat/smartnat/scripts/lab"
)

func TestMain(m *testing.M) { lab.Main(m) }

// TestSmoke runs the whole benchmark with few ports. Every contender must expose them and follow changes.
func TestSmoke(t *testing.T) {
	lab.Require(t, lab.WithAPIServerAlone())
	testenv.RequireTool(t, "nft")
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	p := smoke()
	report, err := run(ctx, p, func(line string) { t.Log(line) })
	if err != nil {
		t.Fatal(err)
	}
	want := 0
	for _, s := range p.scenes() {
		want += len(s.cases)
	}
	if got := len(report.Results); got != want || got <= len(contenders()) {
		t.Fatalf("%d results, want %d", got, want)
	}
	for _, r := range report.Results {
		t.Run(r.Contender.String()+" "+r.scenery.String(), func(t *testing.T) { check(t, p, r) })
	}
}

// check fails unless every figure is set; the values do not matter.
func check(t *testing.T, p plan, r Result) {
	if r.Failed != "" || len(r.Capped) > 0 {
		t.Fatalf("failed: %q, capped: %q", r.Failed, r.Capped)
	}
	if len(r.Starts) != p.starts || len(r.Changes) != p.changes {
		t.Errorf("%d starts and %d changes, want %d and %d", len(r.Starts), len(r.Changes), p.starts, p.changes)
	}
	if r.Connections == nil || r.Connections.Failed > 0 {
		t.Errorf("connections: %+v", r.Connections)
	}
	if stays := r.Name != byHand; stays != (r.Memory != nil) || stays && (r.Memory.RSS < 1 || r.Memory.PSS < 1) {
		t.Errorf("memory: %+v", r.Memory)
	}
	if r.Backend != "nftables" && (r.Rules < r.Ports || r.Chains == 0) {
		t.Errorf("%d rules in %d chains for %d ports", r.Rules, r.Chains, r.Ports)
	}
	if r.Name != smartnat {
		return
	}
	for _, stage := range stageNames() {
		if got := len(r.Stages[stage]); got != p.changes {
			t.Errorf("stage %s was seen %d times, want %d", stage, got, p.changes)
		}
	}
	if measured := r.Idle != nil; measured != (r.scenery == usual) || measured && r.Idle.Restores != 0 {
		t.Errorf("idle: %+v", r.Idle)
	}
}
