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
	"regexp"
	"strings"
	"time"

	"github.com/smartnat/smartnat/scripts/bench/figures"
	"github.com/smartnat/smartnat/scripts/bench/load"
	"github.com/smartnat/smartnat/scripts/lab"
)

// budget bounds the whole run. The report has what was measured until then.
const budget = time.Hour

// plan is what to measure.
type plan struct {
	sessions int
	advert   time.Duration
	planes   []string
	only     *regexp.Regexp
	rounds   int
}

func main() {
	p := plan{}
	flag.IntVar(&p.sessions, "sessions", 500, "the number of TCP sessions")
	flag.DurationVar(&p.advert, "advert", 100*time.Millisecond, "the time between two adverts")
	plane := flag.String("dataplane", "nftables,iptables", "the data planes")
	only := flag.String("only", "", "a regular expression for the cases; by default all")
	flag.IntVar(&p.rounds, "rounds", 0, "the number of times in a row that the primary dies, instead of the cases")
	out := flag.String("out", "scripts/bench/results", "the output directory for the table and the JSON")
	readme := flag.String("readme", "", "a README whose last run to replace")
	flag.Parse()
	p.planes = strings.Split(*plane, ",")
	var err error
	if p.only, err = regexp.Compile(*only); err != nil {
		fmt.Fprintf(os.Stderr, "bench-failover: -only: %v\n", err)
		os.Exit(2)
	}
	status, err := lab.Run(func() int {
		if err := run(p, *out, *readme); err != nil {
			fmt.Fprintf(os.Stderr, "bench-failover: %v\n", err)
			return 1
		}
		return 0
	}, lab.WithoutControlPlane())
	if err != nil {
		fmt.Fprintf(os.Stderr, "bench-failover: %v\n", err)
	}
	os.Exit(status)
}

func run(p plan, out, readme string) error {
	ctx, cancel := context.WithTimeout(context.Background(), budget)
	defer cancel()
	r := report{Run: load.Begin(), Sessions: p.sessions, Advert: p.advert.Seconds()}
	var err error
	for _, plane := range p.planes {
		if err = r.plane(ctx, p, plane); err != nil {
			err = fmt.Errorf("%s: %w", plane, err)
			break
		}
	}
	r.End(err)
	return errors.Join(err, figures.Write(out, "failover", r, r.markdown(), readme))
}

// plane runs the cases with one data plane. Those with the same keys of ha share a pair.
func (r *report) plane(ctx context.Context, p plan, plane string) (err error) {
	var w *world
	stop := func() {
		if w == nil {
			return
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, w.Logs())
		}
		err = errors.Join(err, w.Stop())
		w = nil
	}
	defer stop()
	all := cases()
	if p.rounds > 0 {
		all = []scenario{inARow(p.rounds)}
	}
	for _, c := range all {
		if !p.only.MatchString(c.name) {
			continue
		}
		if w == nil || w.ha != c.ha {
			if stop(); err != nil {
				return err
			}
			if w, err = newWorld(ctx, p, plane, c.ha); err != nil {
				return err
			}
		}
		var got result
		got, err = w.measure(ctx, p, c)
		got.Plane, got.Case = plane, c.name
		r.Cases = append(r.Cases, got)
		fmt.Printf("[%4.0f s] %s\n", time.Since(r.Date).Seconds(), got.progress())
		if err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
	}
	return nil
}
