// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/smartnat/smartnat/scripts/bench/figures"
	"github.com/smartnat/smartnat/scripts/bench/load"
	"github.com/smartnat/smartnat/scripts/bench/ways"
	"github.com/smartnat/smartnat/scripts/lab"
)

// budget bounds the whole run. The report contains what was measured until then.
const budget = 10 * time.Minute

// plan is what to measure, and how much.
type plan struct {
	ports []int
	turns map[string]ways.Turns
}

func full() plan {
	return plan{
		ports: []int{1, 10, 1000, 10000},
		turns: map[string]ways.Turns{
			"connections": {Pairs: 25, Time: 11 * time.Second, Limits: load.Limits{Count: 1500, Time: 2 * time.Second}},
			"exchanges":   {Pairs: 9, Time: 3 * time.Second, Limits: load.Limits{Count: 4000, Time: time.Second}},
			"stream":      {Pairs: 7, Time: 4 * time.Second, Limits: load.Limits{Time: 200 * time.Millisecond}},
		},
	}
}

func quick() plan {
	return plan{
		ports: []int{10, 10000},
		turns: map[string]ways.Turns{
			"connections": {Pairs: 5, Time: 2500 * time.Millisecond, Limits: load.Limits{Count: 1000, Time: time.Second}},
			"exchanges":   {Pairs: 3, Time: time.Second, Limits: load.Limits{Count: 3000, Time: time.Second}},
			"stream":      {Pairs: 3, Time: time.Second, Limits: load.Limits{Time: 100 * time.Millisecond}},
		},
	}
}

func main() {
	short := flag.Bool("quick", false, "measure fewer ports and pairs, in about a minute")
	out := flag.String("out", "scripts/bench/results", "the output directory for the table and the JSON")
	flag.Parse()
	status, err := lab.Run(func() int {
		if err := run(*short, *out); err != nil {
			fmt.Fprintf(os.Stderr, "bench-datapath: %v\n", err)
			return 1
		}
		return 0
	}, lab.WithoutControlPlane())
	if err != nil {
		fmt.Fprintf(os.Stderr, "bench-datapath: %v\n", err)
	}
	os.Exit(status)
}

// bench is a running benchmark.
type bench struct {
	plan    plan
	report  report
	started time.Time
	total   int
}

func run(short bool, out string) error {
	ctx, cancel := context.WithTimeout(context.Background(), budget)
	defer cancel()
	p := full()
	if short {
		p = quick()
	}
	backends := []string{"legacy", "nft", nftables}
	b := &bench{plan: p, started: time.Now(), total: len(backends) * len(ways.Families) * (len(p.ports) + 1)}
	b.report.Run = load.Begin()
	b.report.Quick = short
	var err error
	for _, backend := range backends {
		if err = b.backend(ctx, backend); err != nil {
			err = fmt.Errorf("%s: %w", backend, err)
			break
		}
	}
	b.report.End(err)
	return errors.Join(err, b.report.write(out))
}

// backend measures everything for one back end.
func (b *bench) backend(ctx context.Context, backend string) (err error) {
	w, err := newWorld(ctx, backend)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			fmt.Fprintln(os.Stderr, w.Logs())
		}
		err = errors.Join(err, w.Stop())
	}()
	if b.report.IPTables, err = load.IPTables(ctx, w.Host(lab.Gateway)); err != nil {
		return err
	}
	undo, err := w.byHand(ctx)
	if err != nil {
		return err
	}
	if err := b.ports(ctx, w, backend, 0, 0); err != nil {
		return fmt.Errorf("by hand: %w", err)
	}
	if err := undo(); err != nil {
		return err
	}
	for _, ports := range b.plan.ports {
		ready, err := w.program(ctx, ports)
		if err != nil {
			return err
		}
		if err := b.ports(ctx, w, backend, ports, ready); err != nil {
			return fmt.Errorf("%d ports: %w", ports, err)
		}
	}
	return nil
}

// loads maps the names of metrics to the loads that measure them.
var loads = map[string]load.Load{"connections": load.Connections, "exchanges": load.Exchanges, "stream": load.Stream}

// ports measures both families with one number of ports.
func (b *bench) ports(ctx context.Context, w *world, backend string, ports int, ready time.Duration) error {
	for _, family := range ways.Families {
		c := result{Backend: backend, Family: family, Ports: ports, Ready: ready.Seconds(), Metrics: map[string]figures.Measurement{}}
		for _, m := range metrics() {
			n := max(ports, 1)
			s, err := ways.Compare(ctx, w.Lab, loads[m.name], family, ways.Targets{
				Plain:   ways.PodTargets(family, ways.PlainPods, n),
				Tracked: ways.PodTargets(family, ways.TrackedPods, n),
				Mapped:  ways.MappedTargets(external[family], n),
			}, b.plan.turns[m.name])
			if err != nil {
				return fmt.Errorf("%s: %s: %w", family, m.name, err)
			}
			c.Metrics[m.name] = s
		}
		b.report.Cases = append(b.report.Cases, c)
		fmt.Printf("[%2d/%d %3.0f s] %s\n", len(b.report.Cases), b.total, time.Since(b.started).Seconds(), c.progress())
	}
	return nil
}

// write writes the report to files.
func (r report) write(dir string) error {
	return figures.Write(dir, "datapath", r, r.markdown(), "")
}
