// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"reflect"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/smartnat/smartnat/pkg/check"
	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/gateway"
	"github.com/smartnat/smartnat/pkg/ha"
	"github.com/smartnat/smartnat/pkg/ha/pair"
	"github.com/smartnat/smartnat/pkg/operator"
	"github.com/smartnat/smartnat/pkg/printer"
)

// startPair runs this box's side of a pair if the config has one.
func (b *builder) startPair(cfg config.Config) {
	if reflect.DeepEqual(cfg, b.pairConfig) {
		return
	}
	b.endPair()
	if b.pairConfig = cfg; !cfg.HA.Enabled() {
		return
	}
	for _, program := range missingPrograms() {
		b.log.WithField("program", program).Warn("a program of the pair is missing, going on alone")
	}
	d := b.daemon
	p := pair.New(pair.Options{
		Config: cfg, Version: version, Log: b.log,
		Healthy: func() bool { return d.Alive() == nil && d.Ready() == nil },
		State: func() *gateway.State {
			if report := d.Report(); report != nil {
				return &report.State
			}
			return nil
		},
		Neighbours: func() []ha.Neighbour {
			if report := d.Report(); report != nil {
				return ha.Neighbours(cfg.HA, report.State, report.Host)
			}
			return nil
		},
	})
	ctx, cancel := context.WithCancel(b.ctx)
	var running sync.WaitGroup
	running.Go(func() { p.Run(ctx) })
	b.pair.Store(p)
	b.stopPair = func() { cancel(); running.Wait() }
}

func (b *builder) endPair() {
	if b.stopPair != nil {
		b.pair.Store(nil)
		b.stopPair()
		b.stopPair = nil
	}
}

// pairStatus returns nil without a pair.
func (b *builder) pairStatus() *ha.Status {
	p := b.pair.Load()
	if p == nil {
		return nil
	}
	s := p.Status()
	return &s
}

// missingPrograms returns the programs of a pair that are not installed.
func missingPrograms() []string {
	var missing []string
	for _, program := range []string{"keepalived", "conntrackd"} {
		if _, err := exec.LookPath(program); err != nil {
			missing = append(missing, program)
		}
	}
	return missing
}

// pair checks the addresses of a pair against this host.
func (c *checker) pair(context.Context) []check.Line {
	if c.observeErr != nil {
		return nil // reported already
	}
	return check.PairHost(c.cfg, c.observed, missingPrograms())
}

const (
	// scriptTimeout bounds the answer of this host's smartnatd to 'ha check --script'.
	scriptTimeout = 2 * time.Second
	// scriptBound bounds all that the script waits for, including the reading of its config from a slow disk. It is far below the time
	// after which keepalived ends the script and counts a failure, so that only a verdict is one.
	scriptBound = 4 * time.Second
)

func newHACheckCommand() *cobra.Command {
	var script bool
	q := newQuestion(&cobra.Command{
		Use:   "check",
		Short: "Compare this box of a pair with its peer",
		Long: `check asks the running smartnatd, which asks its peer every two seconds, and prints a line for each thing that is not right: settings that
differ, such as the order of uplinks or the mask of marks, a box that does not answer, both boxes or none with the virtual addresses.

With --script it is a script for keepalived, and prints nothing if all is well: it fails only if smartnatd does not answer here, while
the peer's does and has everything in effect. A config file that is not valid is printed, and no failure: the daemon goes on with the old
one, and both boxes may have got the same file.

Exit codes: 0 all is ok; 1 warnings, or --script fails; 2 failures, or an invalid config file without --script.`,
		Args: cobra.NoArgs,
	})
	q.Flags().BoolVar(&script, "script", false, "fail only if the peer is better off; for keepalived")
	prepare := func(cmd *cobra.Command) (*operator.Client, config.Config, error) {
		client, err := q.client()
		if err != nil {
			return nil, config.Config{}, err
		}
		cfg, err := loadConfig(cmd)
		if err == nil && !cfg.HA.Enabled() {
			err = usageError{errNoPair}
		}
		return client, cfg, err
	}
	q.RunE = func(cmd *cobra.Command, _ []string) error {
		if script {
			return within(cmd.Context(), scriptBound, func(ctx context.Context) error {
				client, cfg, err := prepare(cmd)
				if err != nil {
					cmd.PrintErrf("smartnatd: %v\n", err)
					return nil
				}
				return checkScript(ctx, client, cfg)
			})
		}
		client, _, err := prepare(cmd)
		if err != nil {
			return err
		}
		lines := cmd.OutOrStdout()
		if q.format != printer.Table {
			lines = io.Discard
		}
		report := check.Run(cmd.Context(), lines, check.Func(func(ctx context.Context) []check.Line { return askPair(ctx, client) }))
		if err := q.print(newCheckAnswer(report), func(io.Writer) error { return nil }); err != nil {
			return err
		}
		if report.Level() == check.OK {
			return nil
		}
		return codeError{fmt.Errorf("ha check: %d failures, %d warnings", report.Failures, report.Warnings), int(report.Level())}
	}
	return q.Command
}

func askPair(ctx context.Context, client *operator.Client) []check.Line {
	status, err := client.Pair(ctx)
	if err == nil && status == nil {
		err = errors.New("the running smartnatd has no pair in its config: reload it")
	}
	if err != nil {
		return check.Errors("ha", err)
	}
	return check.Pair(*status)
}

// within returns what decide returns, or nil if that takes longer or ctx ends: no verdict is no failure.
func within(ctx context.Context, bound time.Duration, decide func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, bound)
	defer cancel()
	verdict := make(chan error, 1)
	go func() { verdict <- decide(ctx) }()
	select {
	case err := <-verdict:
		return err
	case <-ctx.Done():
		return nil
	}
}

// checkScript fails if smartnatd hangs or is away here, and the peer's works. A box that cannot know better keeps its addresses: traffic
// flows without smartnatd too.
func checkScript(ctx context.Context, client *operator.Client, cfg config.Config) error {
	bounded, cancel := context.WithTimeout(ctx, scriptTimeout)
	defer cancel()
	status, err := client.Pair(bounded)
	if err == nil && (status == nil || status.Own.Healthy) {
		return nil
	}
	if peer, askErr := pair.Ask(ctx, cfg.HA); askErr != nil || !peer.Healthy {
		return nil
	}
	if err == nil {
		err = errors.New("not everything is in effect here")
	}
	return fmt.Errorf("the peer is better off: %w", err)
}

func newHAStatusCommand() *cobra.Command {
	q := newQuestion(&cobra.Command{
		Use:   "status",
		Short: "Show the role of both boxes of a pair, and what they share",
		Args:  cobra.NoArgs,
	})
	q.RunE = func(cmd *cobra.Command, _ []string) error {
		client, err := q.client()
		if err != nil {
			return err
		}
		status, err := client.Pair(cmd.Context())
		if err != nil {
			return err
		}
		if status == nil {
			return usageError{errNoPair}
		}
		return q.print(status, func(w io.Writer) error { return printer.WriteRows(w, pairRows(*status, time.Now())) })
	}
	return q.Command
}

// pairRows are those of 'ha status', and of 'status' for a pair.
func pairRows(s ha.Status, now time.Time) [][]string {
	rows := [][]string{{"role", roleText(s.Own, now)}}
	switch {
	case s.PeerProblem != "":
		rows = append(rows, []string{"peer", s.PeerProblem})
	case s.Peer == nil:
		rows = append(rows, []string{"peer", "has not answered yet"})
	default:
		rows = append(rows, []string{"peer", fmt.Sprintf("%q, %s", s.Peer.Instance, roleText(*s.Peer, now))})
	}
	for _, line := range s.Differences {
		rows = append(rows, []string{"differs", line})
	}
	sync := fmt.Sprintf("%d refreshes of the peer since the start", s.Refreshes)
	if s.SyncProblem != "" {
		sync = s.SyncProblem
	}
	rows = append(rows, []string{"sync", sync})
	if c := s.Copying; c != nil {
		rows = append(rows, []string{"copies", fmt.Sprintf("%d own, %d from the peer since conntrackd started", c.Own, c.Copied)})
		if c.Problems() > 0 {
			rows = append(rows, []string{"not copied", fmt.Sprintf("%d refused by the kernel, %d messages lost, %d malformed, %d errors of sending, %d of receiving", c.NotCopied, c.Lost, c.Malformed, c.SendErrors, c.ReceiveErrors)})
		}
	}
	if h := s.Hook; h != nil {
		text := fmt.Sprintf("%s succeeded at call %d, %s ago", h.Role, h.Attempts, duration.HumanDuration(now.Sub(h.Ended)))
		if h.Problem != "" {
			text = fmt.Sprintf("%s failed %d times: %s", h.Role, h.Attempts, h.Problem)
		}
		rows = append(rows, []string{"hook", text})
	}
	return rows
}

func roleText(f ha.Facts, now time.Time) string {
	text := string(f.Role.Role)
	if !f.Role.Since.IsZero() {
		text += " for " + duration.HumanDuration(now.Sub(f.Role.Since))
	}
	text += fmt.Sprintf(", priority %d, %d connections", f.Priority, f.Connections)
	if !f.Healthy {
		text += ", not everything is in effect"
	}
	for _, a := range f.Missed {
		text += fmt.Sprintf(", %s does not answer", a)
	}
	return text
}
