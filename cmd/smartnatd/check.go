// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"

	"github.com/smartnat/smartnat/pkg/check"
	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/host"
	"github.com/smartnat/smartnat/pkg/printer"
	"github.com/smartnat/smartnat/pkg/sysctl"
)

func newCheckCommand() *cobra.Command {
	q := newQuestion(&cobra.Command{
		Use:   "check",
		Short: "Validate the config file and this host; changes nothing",
		Long: `check prints a line for each check: "ok", "WARN" if smartnatd runs but not everything works or will keep
working, "FAILED" if something does not work. It asks each server of the source once, tries rules in a network
namespace of its own, and changes nothing on this host.

Exit codes: 0 all checks are ok; 1 warnings; 2 failures, or an invalid config file.`,
		Args: cobra.NoArgs,
	})
	q.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := q.checkFormat(); err != nil {
			return err
		}
		cfg, err := loadConfig(cmd)
		if err != nil {
			return err
		}
		lines := cmd.OutOrStdout() // each as soon as it is there
		if q.format != printer.Table {
			lines = io.Discard
		}
		report := check.Run(cmd.Context(), lines, newChecker(cfg).checks()...)
		if err := q.print(newCheckAnswer(report), func(io.Writer) error { return nil }); err != nil {
			return err
		}
		if report.Level() == check.OK {
			return nil
		}
		err = fmt.Errorf("check: %d failures, %d warnings", report.Failures, report.Warnings)
		return codeError{err, int(report.Level())}
	}
	return q.Command
}

// checkAnswer is the result of check for programs.
type checkAnswer struct {
	Warnings int         `json:"warnings"`
	Failures int         `json:"failures"`
	Lines    []checkLine `json:"lines"`
}

// checkLine is a line of check. Level is ok, warning or failed.
type checkLine struct {
	Level   string `json:"level"`
	Subject string `json:"subject"`
	Text    string `json:"text,omitempty"`
}

func newCheckAnswer(report check.Report) checkAnswer {
	answer := checkAnswer{report.Warnings, report.Failures, []checkLine{}}
	levels := map[check.Level]string{check.OK: "ok", check.Warning: "warning", check.Failed: "failed"}
	for _, line := range report.Lines {
		answer.Lines = append(answer.Lines, checkLine{levels[line.Level], line.What, line.Text})
	}
	return answer
}

// checker reads the inputs of the checks. It reads once what several checks need.
type checker struct {
	cfg  config.Config
	host *host.Host
	// settle bounds how long next hops have to answer.
	settle time.Duration

	observed   gateway.Host
	observeErr error
	// chosen has no name if no data plane can be chosen.
	chosen plane
}

// hopsSettle covers the kernel's three requests for a neighbour and one look at the result.
const hopsSettle = 4 * time.Second

func newChecker(cfg config.Config) *checker {
	quiet := logrus.New()
	quiet.SetOutput(io.Discard)
	looking := host.New(quiet, nextHops(cfg.ServiceRoutes)...).Before(sysctl.New(cfg.RuntimeDir).Before).Helpers(cfg.Helpers.List())
	return &checker{cfg: cfg, host: looking, settle: hopsSettle}
}

func (c *checker) checks() []check.Check {
	return []check.Check{
		check.Func(c.config),
		check.Func(c.credentials),
		check.Func(c.privileges),
		check.Func(c.dataplane),
		check.Func(c.rules),
		check.Func(c.flowtable),
		check.Func(c.forwardPolicy),
		check.Func(c.forwardHook),
		check.Func(c.conntrack),
		check.Func(c.observe),
		check.Func(c.pair),
		check.Func(c.ipRules),
		check.Func(c.networkd),
		check.Func(c.source),
	}
}

func (c *checker) config(context.Context) []check.Line {
	return check.Errors("config", c.cfg.CheckFiles())
}

// observe reads the state of the host after next hops have had time to answer.
func (c *checker) observe(ctx context.Context) []check.Line {
	if len(c.cfg.ServiceRoutes) > 0 {
		asking, cancel := context.WithTimeout(ctx, c.settle)
		defer cancel()
		if err := c.host.Watch(asking, func() {}); err != nil {
			return check.Errors("serviceRoutes", err)
		}
	}
	if c.observed, c.observeErr = c.host.Observe(); c.observeErr != nil {
		return check.Errors("uplinks", c.observeErr)
	}
	return slices.Concat(check.Uplinks(c.cfg, c.observed), check.Boundary(c.cfg, c.observed),
		check.ServiceRoutes(c.cfg.ServiceRoutes, c.observed), check.MasqueradeAddresses(c.cfg, c.observed))
}

// nextHops returns the nodes that the configured routes lead through.
func nextHops(routes []gateway.ServiceRoute) []netip.Addr {
	var hops []netip.Addr
	for _, r := range routes {
		hops = append(hops, r.Via...)
	}
	return hops
}
