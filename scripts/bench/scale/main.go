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

	"github.com/smartnat/smartnat/scripts/bench/load"
	"github.com/smartnat/smartnat/scripts/lab"
)

func main() {
	short := flag.Bool("quick", false, "measure fewer ports with fewer repetitions, in a few minutes")
	only := flag.String("only", "", "a regular expression for contenders, such as 'smartnat|kube-proxy nft$'")
	in := flag.String("in", "", "a regular expression for scenes, such as 'IPv6' or 'PortGrants$'")
	ports := flag.String("n", "", "numbers of ports, such as 100,10000 (default by plan)")
	out := flag.String("out", "scripts/bench/results", "the output directory for the table, the JSON and the curves")
	readme := flag.String("readme", "", "a README.md in which to replace the table")
	flag.Parse()
	p := full()
	if *short {
		p = quick()
	}
	p, err := p.limit(*only, *in, *ports)
	if err != nil {
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		os.Exit(2)
	}
	status, err := lab.Run(func() int {
		if err := runAndWrite(p, *short, *out, *readme); err != nil {
			fmt.Fprintf(os.Stderr, "bench: %v\n", err)
			return 1
		}
		return 0
	})
	if err != nil {
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
	}
	os.Exit(status)
}

func runAndWrite(p plan, short bool, out, readme string) error {
	ctx, cancel := context.WithTimeout(context.Background(), p.budget+3*p.cap)
	defer cancel()
	report, err := run(ctx, p, func(line string) { fmt.Println(line) })
	report.Quick = short
	return errors.Join(err, report.write(out, readme))
}

// bench is a running benchmark.
type bench struct {
	plan    plan
	report  Report
	started time.Time
	total   int
	say     func(line string)
}

// run measures everything in a plan. It reports failures and continues.
func run(ctx context.Context, p plan, say func(line string)) (Report, error) {
	b := &bench{plan: p, started: time.Now(), say: say}
	b.report.Run = load.Begin()
	scenes := p.scenes()
	for _, s := range scenes {
		b.total += len(s.cases)
	}
	var errs []error
	for _, s := range scenes {
		if err := b.scene(ctx, s); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", s.scenery, err))
		}
	}
	err := errors.Join(errs...)
	b.report.End(err)
	return b.report, err
}

// scene measures all cases of a scene in a new lab.
func (b *bench) scene(ctx context.Context, s scene) (err error) {
	w, err := newWorld(ctx, s.scenery)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			fmt.Fprintln(os.Stderr, w.Logs())
		}
		err = errors.Join(err, w.Stop())
	}()
	if b.report.IPTables == "" {
		if b.report.IPTables, err = load.IPTables(ctx, w.Host(lab.Gateway)); err != nil {
			return err
		}
	}
	for _, c := range s.cases {
		result := Result{Contender: c.Contender, scenery: s.scenery, Ports: c.ports, Failed: "left out: out of time"}
		if time.Since(b.started) < b.plan.budget {
			if err := b.populate(ctx, w, c.ports); err != nil {
				return err
			}
			result = b.measure(ctx, w, c.Contender, c.ports)
		}
		b.report.Results = append(b.report.Results, result)
		b.say(fmt.Sprintf("[%2d/%d %4.0f s] %s", len(b.report.Results), b.total, time.Since(b.started).Seconds(), result.progress()))
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return nil
}

// populate creates the objects for a number of ports, which takes minutes for many.
func (b *bench) populate(ctx context.Context, w *world, ports int) error {
	had, began := w.objects, time.Now()
	err := w.populate(ctx, ports)
	if w.objects > had {
		b.say(fmt.Sprintf("[%2d/%d %4.0f s] created %d objects of each kind in %.0f s", len(b.report.Results), b.total, time.Since(b.started).Seconds(), w.objects-had, time.Since(began).Seconds()))
	}
	return err
}
