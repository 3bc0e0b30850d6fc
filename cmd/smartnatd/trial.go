// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/smartnat/smartnat/pkg/check"
	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/iptables/program"
)

// tryIPTables returns gateway.ErrRefused if the kernel lacks what every rule of iptables needs. It does not affect packets.
func tryIPTables(ctx context.Context, cfg config.Config, programs *program.Runner) error {
	ruleset := newIPTablesRuleset(cfg, programs, programs, nil)
	for _, feature := range check.Features(false, false) {
		if !feature.Essential {
			continue
		}
		err := ruleset.Try(ctx, feature.State)
		// An error is no problem: where rules were refused, there may be no chains. The next Apply removes the rest.
		_ = ruleset.RemoveTrial(ctx, feature.State)
		if err != nil {
			return err
		}
	}
	return nil
}

// trialFile records the outcome of a trial of iptables since boot, because a trial writes to tables that may be large. Without
// the file, or if it is damaged, iptables is tried again.
const trialFile = "smartnatd.iptables"

// tryOnce returns the outcome of try, which it calls once for each boot and variant of iptables. It writes the record unless
// readOnly is set.
func tryOnce(runtimeDir string, readOnly bool, try func(*program.Runner) error) func(*program.Runner) error {
	return func(programs *program.Runner) error {
		boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
		if err != nil {
			return try(programs)
		}
		about := strings.TrimSpace(string(boot)) + " " + programs.Variant() + " "
		if outcome, found := recordedTrial(runtimeDir, about); found {
			return outcome
		}
		outcome := try(programs)
		if !readOnly && (outcome == nil || errors.Is(outcome, gateway.ErrRefused)) {
			recordTrial(runtimeDir, about, outcome)
		}
		return outcome
	}
}

const (
	worked     = "works"
	refusedFor = "refused: "
)

// recordedTrial returns the outcome that was recorded for the same boot and variant.
func recordedTrial(runtimeDir, about string) (outcome error, found bool) {
	text, _ := os.ReadFile(filepath.Join(runtimeDir, trialFile)) // without the file there is no outcome
	line, whole := strings.CutSuffix(string(text), "\n")
	result, same := strings.CutPrefix(line, about)
	if !whole || !same {
		return nil, false
	}
	if result == worked {
		return nil, true
	}
	why, refused := strings.CutPrefix(result, refusedFor)
	if !refused {
		return nil, false
	}
	return fmt.Errorf("%w earlier since boot: %s", gateway.ErrRefused, why), true
}

// recordTrial ignores errors, because the file only saves a trial.
func recordTrial(runtimeDir, about string, outcome error) {
	result := worked
	if outcome != nil {
		result = refusedFor + strings.Join(strings.Fields(outcome.Error()), " ")
	}
	path := filepath.Join(runtimeDir, trialFile)
	// A new file, because a user who created this one could keep it open.
	_ = os.Remove(path)
	_ = os.WriteFile(path, []byte(about+result+"\n"), 0o600)
}
