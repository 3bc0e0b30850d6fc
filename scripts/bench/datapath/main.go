// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/smartnat/smartnat/scripts/lab"
)

// budget bounds the whole run; what was measured until then is written.
const budget = 10 * time.Minute

// plan is what is measured, and how much.
type plan struct {
	ports []int
	turns map[string]turns
}

// turns say how often each way has its turn, after how long there are no more (three are always had), and how long one is.
type turns struct {
	pairs int
	time  time.Duration
	limits
}

func full() plan {
	return plan{
		ports: []int{1, 10, 1000, 10000},
		turns: map[string]turns{
			"connections": {25, 11 * time.Second, limits{1500, 2 * time.Second}},
			"exchanges":   {9, 3 * time.Second, limits{4000, time.Second}},
			"stream":      {7, 4 * time.Second, limits{time: 200 * time.Millisecond}},
		},
	}
}

func quick() plan {
	return plan{
		ports: []int{10, 10000},
		turns: map[string]turns{
			"connections": {5, 2500 * time.Millisecond, limits{1000, time.Second}},
			"exchanges":   {3, time.Second, limits{3000, time.Second}},
			"stream":      {3, time.Second, limits{time: 100 * time.Millisecond}},
		},
	}
}

func main() {
	short := flag.Bool("quick", false, "fewer ports and pairs: a minute's try")
	out := flag.String("out", "scripts/bench/results", "the folder for the table and the JSON")
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

// bench is a run under way.
type bench struct {
	plan    plan
	report  report
	started time.Time
	total   int
}

func run(short bool, out string) error {
	ctx, cancel := context.WithTimeout(context.Background(), budget)
	defer cancel()
	// Threads wait in system calls, each with a processor of the runtime's: with as many as there are cores they would wait
	// for each other.
	cores := runtime.GOMAXPROCS(64)
	p := full()
	if short {
		p = quick()
	}
	backends := []string{"legacy", "nft"}
	b := &bench{plan: p, started: time.Now(), total: len(backends) * len(families) * (len(p.ports) + 1)}
	b.report = report{Date: b.started.UTC(), Machine: processor(), Cores: cores, Kernel: kernel(), Quick: short, Load: [2]string{loadAverage(), ""}}
	var err error
	for _, backend := range backends {
		if err = b.backend(ctx, backend); err != nil {
			err = fmt.Errorf("%s: %w", backend, err)
			b.report.Ended = err.Error()
			break
		}
	}
	b.report.Seconds, b.report.Load[1] = time.Since(b.started).Seconds(), loadAverage()
	return errors.Join(err, b.report.write(out))
}

// backend measures all that there is to one back end.
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
	version, err := w.Host(lab.Gateway).Exec(ctx, "iptables", "--version")
	if err != nil {
		return err
	}
	if fields := strings.Fields(version); len(fields) > 1 {
		b.report.IPTables = strings.TrimPrefix(fields[1], "v")
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

// loads are what is measured, by the names of the metrics.
var loads = map[string]func(from *lab.Host, to []netip.AddrPort, l limits) (turn, error){
	"connections": connections, "exchanges": exchanges, "stream": stream,
}

// ports measures both families at one number of ports.
func (b *bench) ports(ctx context.Context, w *world, backend string, ports int, ready time.Duration) error {
	for _, family := range families {
		c := result{Backend: backend, Family: family, Ports: ports, Ready: ready.Seconds(), Metrics: map[string]measurement{}}
		for _, m := range metrics() {
			s, err := b.inTurns(ctx, w, m.name, family, max(ports, 1))
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

// inTurns measures one thing, by each way in turn. The first turn of each is for warming up.
func (b *bench) inTurns(ctx context.Context, w *world, metric, family string, ports int) (measurement, error) {
	var m, warm measurement
	turns := b.plan.turns[metric]
	measure := func(clock, processor *[]float64, to []netip.AddrPort) error {
		if err := errors.Join(ctx.Err(), w.forget(ctx, family)); err != nil {
			return err
		}
		t, err := loads[metric](w.Host(lab.Client), to, turns.limits)
		if err == nil && t.count == 0 {
			err = fmt.Errorf("nothing gets through to %s", to[0])
		}
		m.Failed += t.failed
		*clock = append(*clock, float64(t.count)/t.clock.Seconds())
		*processor = append(*processor, float64(t.count)/t.processor.Seconds())
		return err
	}
	routed := func(m *measurement) error {
		return errors.Join(
			measure(&m.Clock.Plain, &m.Processor.Plain, podTargets(family, plainPods, ports)),
			measure(&m.Clock.Tracked, &m.Processor.Tracked, podTargets(family, trackedPods, ports)))
	}
	mapped := func(m *measurement) error {
		return measure(&m.Clock.Mapped, &m.Processor.Mapped, mappedTargets(external[family], ports))
	}
	if err := errors.Join(mapped(&warm), routed(&warm), routed(&m)); err != nil {
		return m, err
	}
	started := time.Now()
	for i := 0; i < turns.pairs && (i < 3 || time.Since(started) < turns.time); i++ {
		if err := errors.Join(mapped(&m), routed(&m)); err != nil {
			return m, err
		}
	}
	return m, nil
}

// write puts the report where people and programs look for it.
func (r report) write(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	data, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return fmt.Errorf("writing JSON: %w", err)
	}
	name := filepath.Join(dir, "datapath")
	if err := errors.Join(os.WriteFile(name+".md", []byte(r.markdown()), 0o644), os.WriteFile(name+".json", append(data, '\n'), 0o644)); err != nil {
		return err
	}
	fmt.Printf("\n%s\n%s.md and %s.json hold this.\n", r.markdown(), name, name)
	return nil
}

func kernel() string {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return "?"
	}
	return unix.ByteSliceToString(name.Release[:])
}

func processor() string {
	text, _ := os.ReadFile("/proc/cpuinfo") // without it, nobody knows
	for line := range strings.Lines(string(text)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

func loadAverage() string {
	text, _ := os.ReadFile("/proc/loadavg") // without it, nobody knows
	fields := strings.Fields(string(text))
	if len(fields) == 0 {
		return "?"
	}
	return fields[0]
}
