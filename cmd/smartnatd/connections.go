// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/smartnat/smartnat/pkg/operator"
	"github.com/smartnat/smartnat/pkg/printer"
)

// defaultConnections are about what fits on a screen or two.
const defaultConnections = 50

func newConnectionsCommand() *cobra.Command {
	var limit int
	q := newQuestion(&cobra.Command{
		Use:   "connections [NAMESPACE/NAME]",
		Short: "List open connections of all Mappings, or of one, those with the most bytes first",
		Long: `connections asks the running smartnatd for the connections that Mappings translate: client, external address, pod, state, age, bytes.
A connection stays in the list until the kernel forgets it, two minutes after a TCP connection was closed.

The kernel knows the age only if net.netfilter.nf_conntrack_timestamp was 1 when the connection began, which flowLog in the config sets.`,
		Example: "  smartnatd connections\n  smartnatd connections shop/db --limit 1000 -o json",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 1 || len(args) == 1 && !isMappingName(args[0]) {
				return usageError{fmt.Errorf("%q: want one Mapping as NAMESPACE/NAME, or nothing for all", strings.Join(args, " "))}
			}
			return nil
		},
	})
	q.Flags().IntVar(&limit, "limit", defaultConnections, fmt.Sprintf("`number` of connections to print, at most %d", operator.MaxConnections))
	q.RunE = func(cmd *cobra.Command, args []string) error {
		if limit < 1 || limit > operator.MaxConnections {
			return usageError{fmt.Errorf("--limit %d: want a number from 1 to %d", limit, operator.MaxConnections)}
		}
		client, err := q.client()
		if err != nil {
			return err
		}
		answer, err := client.Connections(cmd.Context(), strings.Join(args, ""), limit)
		if err != nil {
			return err
		}
		return q.print(answer, func(w io.Writer) error { return printConnections(w, answer, time.Now()) })
	}
	return q.Command
}

func isMappingName(text string) bool {
	namespace, name, found := strings.Cut(text, "/")
	return found && namespace != "" && name != "" && !strings.Contains(name, "/")
}

func printConnections(w io.Writer, c operator.Connections, now time.Time) error {
	if c.Total == 0 {
		_, err := fmt.Fprintln(w, "no connections")
		return err
	}
	rows := [][]string{{"CLIENT", "EXTERNAL", "POD", "PROTOCOL", "STATE", "AGE", "IN", "OUT", "MAPPING"}}
	for _, one := range c.Connections {
		rows = append(rows, connectionCells(one, now))
	}
	if err := printer.WriteRows(w, rows); err != nil {
		return err
	}
	if len(c.Connections) < c.Total {
		_, err := fmt.Fprintf(w, "\n%d of %d connections, those with the most bytes: --limit prints more\n", len(c.Connections), c.Total)
		return err
	}
	return nil
}

func connectionCells(c operator.Connection, now time.Time) []string {
	age := "unknown"
	if !c.Start.IsZero() {
		age = duration.HumanDuration(now.Sub(c.Start))
	}
	client, external, pod := c.Client.String(), c.External.String(), c.Backend.String()
	if c.Leaving {
		client, external, pod = c.Backend.String()+" (server)", c.Seen.String(), c.Client.String()
	}
	return []string{
		client, external, pod, c.Protocol, c.State, age, humanize.IBytes(c.BytesFromClient), humanize.IBytes(c.BytesToClient),
		cmp.Or(c.Mapping, "none now"),
	}
}
