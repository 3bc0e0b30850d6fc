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

// Names of resources, after the name of a program.
const (
	memory     = " memory, MB"
	files      = " open files"
	goroutines = " goroutines"
	tracked    = "tracked connections"
)

// bounds is how much a run may use in addition to the start.
var bounds = growth{Share: 0.5, Extra: map[string]float64{
	"smartnatd" + memory: 15, "relay 1" + memory: 30, "relay 2" + memory: 30,
	"smartnatd" + files: 10, "relay 1" + files: 20, "relay 2" + files: 20,
	"smartnatd" + goroutines: 10, "relay 1" + goroutines: 10, "relay 2" + goroutines: 10,
	tracked: 20_000,
}}

// sample records the resources in use.
func (w *world) sample(ctx context.Context, o *outcome) error {
	u := usage{At: time.Now(), Values: map[string]float64{}}
	for _, p := range []struct {
		name, host, metrics string
		*lab.Process
	}{
		{"smartnatd", lab.Gateway, daemonMetrics, w.daemon},
		{"relay 1", lab.Node1, relayMetrics, w.relays[0]},
		{"relay 2", lab.Node2, relayMetrics, w.relays[1]},
	} {
		m, err := process.ReadMemory(p.PID())
		if err != nil {
			return err
		}
		entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.PID()))
		if err != nil {
			return fmt.Errorf("the open files of %s: %w", p.name, err)
		}
		u.Values[p.name+memory], u.Values[p.name+files] = m.RSS, float64(len(entries))
		if u.Values[p.name+goroutines], err = w.metric(ctx, p.host, p.metrics, "go_goroutines"); err != nil || u.Values[p.name+goroutines] == 0 {
			return errors.Join(err, fmt.Errorf("counting the goroutines of %s", p.name))
		}
	}
	count, err := w.Host(lab.Gateway).Sysctl("net.netfilter.nf_conntrack_count")
	if err != nil {
		return err
	}
	if u.Values[tracked], err = strconv.ParseFloat(count, 64); err != nil {
		return fmt.Errorf("counting tracked connections: %w", err)
	}
	o.Usage = append(o.Usage, u)
	return nil
}

// Where smartnatd and the relays serve metrics, each on its own host.
const daemonMetrics, relayMetrics = "127.0.0.1:9470", "127.0.0.1:9090"

// metric returns a metric of a program on a host, summed over its labels; 0 if it does not exist.
func (w *world) metric(ctx context.Context, host, address, name string) (float64, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/metrics", nil)
	if err != nil {
		return 0, err
	}
	response, err := w.Host(host).HTTPClient().Do(request)
	if err != nil {
		return 0, fmt.Errorf("the metrics of %s: %w", host, err)
	}
	defer func() { _ = response.Body.Close() }()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(response.Body)
	if err != nil {
		return 0, fmt.Errorf("the metrics of %s: %w", host, err)
	}
	sum := 0.0
	for _, m := range families[name].GetMetric() {
		sum += m.GetGauge().GetValue() + m.GetCounter().GetValue()
	}
	return sum, nil
}
