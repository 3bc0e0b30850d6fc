// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"

	"github.com/smartnat/smartnat/pkg/announce"
	"github.com/smartnat/smartnat/pkg/config"
	"github.com/smartnat/smartnat/pkg/conntrack"
	"github.com/smartnat/smartnat/pkg/explain"
	"github.com/smartnat/smartnat/pkg/flowlog"
	"github.com/smartnat/smartnat/pkg/flows"
	"github.com/smartnat/smartnat/pkg/ha"
	"github.com/smartnat/smartnat/pkg/meter"
	"github.com/smartnat/smartnat/pkg/operator"
	"github.com/smartnat/smartnat/pkg/printer"
	"github.com/smartnat/smartnat/pkg/rtnetlink"
)

// newOperatorServer returns the server for the commands that ask the running daemon.
func newOperatorServer(cfg config.Config, d operator.Daemon, m *meter.Meter, pair func() *ha.Status, announced func() *announce.Status, log logrus.FieldLogger) *operator.Server {
	routes := rtnetlink.New(cfg.Ownership)
	return operator.NewServer(operator.Options{
		Version: version, Daemon: d, Log: log,
		Traffic: m.Read,
		Pair:    pair, Announced: announced,
		FlowLog: flowlog.Search,
		Flows:   func(each func(flows.Flow)) error { return conntrack.Flows(cfg.Ownership, each) },
		Route: func(destination netip.Addr, mark uint32) (explain.Hop, error) {
			link, next, err := routes.Lookup(destination, mark)
			return explain.Hop{Link: link, Gateway: next}, err
		},
		Connections: func(flow explain.Flow) ([]explain.Connection, error) {
			found, err := conntrack.Connections(cfg.Ownership, flow.Protocol, flow.Source, flow.Destination)
			connections := make([]explain.Connection, 0, len(found))
			for _, c := range found {
				connections = append(connections, explain.Connection(c))
			}
			return connections, err
		},
	})
}

// question is a command that asks the running daemon and prints its answer.
type question struct {
	*cobra.Command
	format printer.Format
}

// checkFormat returns an error if there is no such format.
func (q *question) checkFormat() error {
	if err := q.format.Validate(); err != nil {
		return usageError{err}
	}
	return nil
}

// newQuestion adds the flag for the format of the answer.
func newQuestion(command *cobra.Command) *question {
	q := &question{Command: command}
	q.format.AddFlag(command.Flags())
	return q
}

// client returns a client of the daemon that the config file describes.
func (q *question) client() (*operator.Client, error) {
	if err := q.checkFormat(); err != nil {
		return nil, err
	}
	cfg, err := loadConfig(q.Command)
	if err != nil {
		return nil, err
	}
	return operator.NewClient(operator.SocketPath(cfg.RuntimeDir)), nil
}

// print writes an answer in the chosen format.
func (q *question) print(answer any, table func(io.Writer) error) error {
	return q.format.Write(q.OutOrStdout(), answer, table)
}

// errNotForwarded ends explain for a connection that does not get through. The answer is on standard output.
var errNotForwarded = errors.New("the connection does not get through")

func newExplainCommand() *cobra.Command {
	var rules bool
	q := newQuestion(&cobra.Command{
		Use:   "explain SOURCE ADDRESS:PORT[/PROTOCOL]",
		Short: "Say whether a connection gets through this gateway and, if not, why",
		Long: `explain asks the running smartnatd what happens to a connection from SOURCE to ADDRESS:PORT, by the rules and routes that are in
the kernel now: whether a Mapping forwards it, to which endpoints, and which way the replies take. It sends no packet.

PROTOCOL is tcp (the default), udp or sctp. The exit code is 0 if the connection gets through and 1 if not.`,
		Example: `  smartnatd explain 203.0.113.7 198.51.100.10:5432
  smartnatd explain 2001:db8::7 [2001:db8:1::10]:53/udp`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 2 {
				return usageError{errors.New("want a source and a destination, as in: smartnatd explain 203.0.113.7 198.51.100.10:5432/tcp")}
			}
			return nil
		},
	})
	q.Flags().BoolVar(&rules, "rules", false, "also print the rules that matched in the kernel")
	q.RunE = func(cmd *cobra.Command, args []string) error {
		client, err := q.client()
		if err != nil {
			return err
		}
		flow, err := explain.ParseArguments(args[0], args[1])
		if err != nil {
			return usageError{err}
		}
		answer, err := client.Explain(cmd.Context(), flow)
		if err != nil {
			return err
		}
		if err := q.print(answer, func(w io.Writer) error { return printAnswer(w, answer, rules) }); err != nil {
			return err
		}
		if answer.Verdict != explain.Forwarded && answer.Verdict != explain.Passed {
			return errNotForwarded
		}
		return nil
	}
	return q.Command
}

// waitFor returns false if ctx ends before the interval.
func waitFor(ctx context.Context, interval time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(interval):
		return true
	}
}

// watchInterval is the time between two tables of status --watch.
const watchInterval = 2 * time.Second

func newStatusCommand() *cobra.Command {
	var watch bool
	q := newQuestion(&cobra.Command{
		Use:   "status",
		Short: "Show what is in effect on this gateway, and what is not and why",
		Long: `status asks the running smartnatd for its source, its uplinks and each Mapping. The exit code is 0 if everything is in effect, and 1 if
the gateway is degraded or still starting. Mappings that are not ready do not change it.`,
		Args: cobra.NoArgs,
	})
	q.Flags().BoolVarP(&watch, "watch", "w", false, "print the status again every two seconds until interrupted")
	q.RunE = func(cmd *cobra.Command, _ []string) error {
		client, err := q.client()
		if err != nil {
			return err
		}
		show := func() (operator.Status, error) {
			status, err := client.Status(cmd.Context())
			if err != nil {
				return status, err
			}
			return status, q.print(status, func(w io.Writer) error { return printStatus(w, status, time.Now()) })
		}
		if watch {
			return repeat(func() error { _, err := show(); return err }, func() bool { return waitFor(cmd.Context(), watchInterval) })
		}
		status, err := show()
		if err == nil && status.State != operator.InEffect {
			err = fmt.Errorf("the gateway is %s", status.State)
		}
		return err
	}
	return q.Command
}

// repeat calls show until it fails, or wait returns false.
func repeat(show func() error, wait func() bool) error {
	for {
		if err := show(); err != nil {
			return err
		}
		if !wait() {
			return nil
		}
	}
}
