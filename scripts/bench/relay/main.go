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
	"github.com/smartnat/smartnat/scripts/bench/process"
	"github.com/smartnat/smartnat/scripts/lab"
)

const (
	apiName, relayName = "kube-apiserver", "smartnat-relay"

	apiURL   = "https://" + lab.ControlAddress + ":6443"
	relayURL = "https://" + lab.Node1Address + ":8443"
	// budget bounds the whole run.
	budget = 10 * time.Minute
)

func main() {
	short := flag.Bool("quick", false, "use a small cluster and few watchers, for about a minute")
	size := flag.Int("n", 0, "the number of Services, a tenth of which are mapped (default by plan)")
	watchers := flag.Int("watchers", 0, "the number of watchers (default by plan)")
	out := flag.String("out", "scripts/bench/results", "the output directory for the table and the JSON")
	readme := flag.String("readme", "", "a README.md in which to replace the table")
	flag.Parse()
	p := full()
	if *short {
		p = quick()
	}
	p, err := p.resize(*size, *watchers)
	if err != nil {
		fmt.Fprintf(os.Stderr, "bench-relay: %v\n", err)
		os.Exit(2)
	}
	status, err := lab.Run(func() int {
		ctx, cancel := context.WithTimeout(context.Background(), budget)
		defer cancel()
		report, err := run(ctx, p, func(line string) { fmt.Println(line) })
		report.Quick = *short
		if err := errors.Join(err, report.write(*out, *readme)); err != nil {
			fmt.Fprintf(os.Stderr, "bench-relay: %v\n", err)
			return 1
		}
		return 0
	}, lab.WithAPIServerAlone())
	if err != nil {
		fmt.Fprintf(os.Stderr, "bench-relay: %v\n", err)
	}
	os.Exit(status)
}

// bench is a running benchmark.
type bench struct {
	plan    plan
	world   *world
	report  Report
	started time.Time
	out     func(line string)
}

func (b *bench) say(format string, args ...any) {
	b.out(fmt.Sprintf("[%4.0f s] ", time.Since(b.started).Seconds()) + fmt.Sprintf(format, args...))
}

// run measures everything in a plan. After a failure, the report contains what was measured before.
func run(ctx context.Context, p plan, out func(line string)) (Report, error) {
	b := &bench{plan: p, started: time.Now(), out: out}
	b.report = Report{Run: load.Begin(), Plan: p}
	err := b.run(ctx)
	b.report.End(err)
	return b.report, err
}

func (b *bench) run(ctx context.Context) (err error) {
	if b.world, err = newWorld(ctx, b.plan); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			b.out(b.world.Logs())
		}
		err = errors.Join(err, b.world.Stop())
	}()
	if err := b.world.populate(ctx, func(made int) { b.say("%d Services created", made) }); err != nil {
		return fmt.Errorf("creating the cluster's objects: %w", err)
	}
	tokens, err := b.world.admit(ctx)
	if err != nil {
		return fmt.Errorf("creating accounts for watchers: %w", err)
	}
	api := server{name: apiName, url: apiURL, process: b.world.Process(apiName)}
	if err := settle(ctx, api, 10*time.Second); err != nil {
		return err
	}
	if b.report.APIServer, err = process.ReadMemory(api.process.PID()); err != nil {
		return err
	}
	b.say("created %d Services with %d endpoints each, %d of them mapped; the API server uses %.0f MB", b.plan.Services, b.plan.Endpoints, b.plan.Mapped, b.report.APIServer.RSS)
	relay, err := b.startRelay(ctx)
	if err != nil {
		return err
	}
	r := b.report.Relay
	b.say("the relay was ready after %.2f s, with %.2f s of processor time and %.1f MB", r.Seconds, r.CPU, r.Memory.RSS)
	if err := b.churn(ctx, relay); err != nil {
		return err
	}
	b.say("a change of an unmapped Service costs the relay %.2f ms of processor time", b.report.Relay.PerChange)
	if b.report.Lists, err = b.world.lists(ctx, api, relay, tokens[0]); err != nil {
		return err
	}
	for _, l := range b.report.Lists {
		b.say("first sync, %s: %.1f %% of the API server's", l.Name, 100*l.share())
	}
	return b.watchers(ctx, api, relay, tokens)
}

// watchers measures both servers with all watchers, one after the other, and then restarts the relay.
func (b *bench) watchers(ctx context.Context, api, relay server, tokens []string) error {
	versions, err := b.world.newClient(api, tokens[0]).versions(ctx)
	if err != nil {
		return err
	}
	f, m, err := b.watch(ctx, api, tokens, versions)
	if f != nil {
		f.close()
	}
	if err != nil {
		return err
	}
	b.watched(m)
	f, m, err = b.watch(ctx, relay, tokens, nil)
	if f != nil {
		defer f.close()
	}
	if err != nil {
		return err
	}
	b.watched(m)
	storm, err := b.storm(ctx, relay, f)
	if err != nil {
		return err
	}
	b.report.Storm = &storm
	b.say("%d watchers synced again within %.1f s after the relay was killed (median %.1f s, relay ready after %.1f s)", len(tokens), storm.Last, storm.Median, storm.Ready)
	return nil
}

func (b *bench) watched(m Watched) {
	b.report.Watched = append(b.report.Watched, m)
	b.say("%s, %d watchers: %.1f ms (p99 %.1f) from write to event, %.0f MB", m.Server, b.plan.Watchers, m.Median, m.P99, m.After.RSS)
}
