// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/smartnat/smartnat/pkg/flows"
	"github.com/smartnat/smartnat/pkg/operator"
)

// errNoClient ends who if no client is known. The answer is on standard output.
var errNoClient = errors.New("no client found")

func newWhoCommand() *cobra.Command {
	var at string
	q := newQuestion(&cobra.Command{
		Use:   "who ADDRESS:PORT[/PROTOCOL]",
		Short: "Say which client was behind an address and port that a pod saw",
		Long: `who asks the running smartnatd which client is behind an address and port of this gateway, as a pod saw it in place of the client's, or a
server on the internet in place of a pod's. It looks at open connections, and at the log of ended ones if the config has a flowLog.

PROTOCOL is tcp (the default), udp or sctp. The exit code is 0 if a client is found and 1 if not.`,
		Example: "  smartnatd who 10.10.0.2:41023\n  smartnatd who 10.10.0.2:41023/udp --at 2026-01-31T15:04:05Z\n  smartnatd who 10.10.0.2:41023 --at 10m",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usageError{errors.New("want one address as a pod saw it, as in: smartnatd who 10.10.0.2:41023/tcp")}
			}
			return nil
		},
	})
	q.Flags().StringVar(&at, "at", "", "the `time` when the pod saw it: 2026-01-31T15:04:05Z, or 10m for ten minutes ago")
	q.RunE = func(cmd *cobra.Command, args []string) error {
		question, err := flows.ParseQuestion(args[0])
		if err != nil {
			return usageError{err}
		}
		if question.At, err = parseTime(at, time.Now()); err != nil {
			return usageError{err}
		}
		client, err := q.client()
		if err != nil {
			return err
		}
		answer, err := client.ClientsBehind(cmd.Context(), question)
		if err != nil {
			return err
		}
		if err := q.print(answer, func(w io.Writer) error { return printWho(w, answer) }); err != nil {
			return err
		}
		if answer.Total == 0 {
			return errNoClient
		}
		return nil
	}
	return q.Command
}

// parseTime parses a time, or how long ago it was. Nothing is the zero time.
func parseTime(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if ago, err := time.ParseDuration(text); err == nil && ago >= 0 {
		return now.Add(-ago), nil
	}
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil || t.After(now) {
		return t, fmt.Errorf("--at %q: want a time in the past such as 2026-01-31T15:04:05Z, or 10m for ten minutes ago", text)
	}
	return t, nil
}

// printWho writes a line for each client, and then how far the answer goes.
func printWho(w io.Writer, a operator.Clients) error {
	var text strings.Builder
	for _, c := range a.Clients {
		text.WriteString(clientLine(c) + "\n")
	}
	if more := a.Total - len(a.Clients); more > 0 {
		fmt.Fprintf(&text, "and %d earlier ones: --at narrows it down\n", more)
	}
	if a.Total == 0 {
		fmt.Fprintf(&text, "no connection with the source %s/%s is known\n", a.Seen, a.Protocol)
	}
	switch {
	case a.Log.File == "":
		text.WriteString("only open connections are known: flowLog in the config would keep ended ones\n")
	case a.Log.Oldest.IsZero():
		text.WriteString("the log of ended connections is empty\n")
	default:
		fmt.Fprintf(&text, "the log goes back to %s\n", a.Log.Oldest.UTC().Format(time.RFC3339))
	}
	if a.Log.Losses > 0 {
		fmt.Fprintf(&text, "the log has gaps (%d): the client may be in one of them\n", a.Log.Losses)
	}
	_, err := io.WriteString(w, text.String())
	return err
}

func clientLine(c operator.ClientConnection) string {
	line := fmt.Sprintf("%s, to %s", c.Client, c.External)
	if c.Leaving {
		line = fmt.Sprintf("pod %s, to the server %s", c.Client, c.Backend)
	}
	line += "/" + c.Protocol
	if c.Mapping != "" {
		line += ", Mapping " + c.Mapping
	}
	if !c.Leaving {
		line += fmt.Sprintf(", answered by %s", c.Backend)
	}
	line += ": since " + stampOr(c.Start, "an unknown time")
	if c.End.IsZero() {
		line += ", open"
	} else {
		line += ", until " + stampOr(c.End, "")
	}
	if c.Uncertain {
		line += " (it may have begun later)"
	}
	return line
}

func stampOr(t time.Time, unknown string) string {
	if t.IsZero() {
		return unknown
	}
	return t.UTC().Format(time.RFC3339)
}
