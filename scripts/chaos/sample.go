// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/smartnat/smartnat/scripts/bench/process"
	"github.com/smartnat/smartnat/scripts/lab"
)

// Names of what is used, after that of a program.
const (
	memory     = " memory, MB"
	files      = " open files"
	goroutines = " goroutines"
	tracked    = "tracked connections"
)

// bounds are what a run may use more than at first.
var bounds = growth{Share: 0.5, Extra: map[string]float64{
	"smartnatd" + memory: 15, "relay 1" + memory: 30, "relay 2" + memory: 30,
	"smartnatd" + files: 10, "relay 1" + files: 20, "relay 2" + files: 20,
	"smartnatd" + goroutines: 10,
	tracked:                  20_000,
}}

// sample notes what is used now.
func (w *world) sample(ctx context.Context, o *outcome) error {
	u := usage{At: time.Now(), Values: map[string]float64{}}
	for name, program := range map[string]*lab.Process{"smartnatd": w.daemon, "relay 1": w.relays[0], "relay 2": w.relays[1]} {
		m, err := process.ReadMemory(program.PID())
		if err != nil {
			return err
		}
		entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", program.PID()))
		if err != nil {
			return fmt.Errorf("the open files of %s: %w", name, err)
		}
		u.Values[name+memory], u.Values[name+files] = m.RSS, float64(len(entries))
	}
	count, err := w.Host(lab.Gateway).Sysctl("net.netfilter.nf_conntrack_count")
	if err != nil {
		return err
	}
	if u.Values[tracked], err = strconv.ParseFloat(count, 64); err != nil {
		return fmt.Errorf("counting tracked connections: %w", err)
	}
	if u.Values["smartnatd"+goroutines], err = w.metric(ctx, "go_goroutines"); err != nil || u.Values["smartnatd"+goroutines] == 0 {
		return errors.Join(err, errors.New("counting smartnatd's goroutines"))
	}
	o.Usage = append(o.Usage, u)
	return nil
}

// metric is one of smartnatd's, summed over its labels; 0 where there is none.
func (w *world) metric(ctx context.Context, name string) (float64, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://127.0.0.1:9470/metrics", nil)
	if err != nil {
		return 0, err
	}
	response, err := w.Host(lab.Gateway).HTTPClient().Do(request)
	if err != nil {
		return 0, fmt.Errorf("smartnatd's metrics: %w", err)
	}
	defer func() { _ = response.Body.Close() }()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(response.Body)
	if err != nil {
		return 0, fmt.Errorf("smartnatd's metrics: %w", err)
	}
	sum := 0.0
	for _, m := range families[name].GetMetric() {
		sum += m.GetGauge().GetValue() + m.GetCounter().GetValue()
	}
	return sum, nil
}
