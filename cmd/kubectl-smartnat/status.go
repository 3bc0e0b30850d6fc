// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"io"
	"strings"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/smartnat/smartnat/apis/smartnat/v1alpha1"
	"github.com/smartnat/smartnat/pkg/explain"
	"github.com/smartnat/smartnat/pkg/plugin"
	"github.com/smartnat/smartnat/pkg/printer"
)

// question is a command that reads Mappings and prints an answer.
type question struct {
	*cobra.Command
	access    *access
	format    printer.Format
	namespace string
	all       bool
}

func newQuestion(a *access, command *cobra.Command) *question {
	q := &question{Command: command, access: a}
	q.format.AddFlag(command.Flags())
	return q
}

// inNamespace adds the flags that select a namespace.
func (q *question) inNamespace() *question {
	q.Flags().StringVarP(&q.namespace, "namespace", "n", "", "the `namespace`; by default that of the context")
	q.Flags().BoolVarP(&q.all, "all-namespaces", "A", false, "all namespaces")
	return q
}

// check reports a wrong format before any request is sent.
func (q *question) check() error {
	if err := q.format.Validate(); err != nil {
		return usageError{err}
	}
	return nil
}

// space returns the selected namespace, or "" for all.
func (q *question) space() (string, error) {
	if q.all || q.namespace != "" {
		return q.namespace, nil
	}
	namespace, _, err := q.access.config().Namespace()
	if err != nil {
		err = noKubeconfig(err)
	}
	return namespace, err
}

func (q *question) mappings(namespace string) ([]v1alpha1.Mapping, error) {
	client, err := q.access.client()
	if err != nil {
		return nil, err
	}
	return plugin.ReadMappings(q.Context(), client, namespace)
}

// print writes an answer in the chosen format. The rows are the table.
func (q *question) print(answer any, text string, rows [][]string) error {
	return q.format.Write(q.OutOrStdout(), answer, func(out io.Writer) error {
		if _, err := io.WriteString(out, text); err != nil {
			return err
		}
		return printer.WriteRows(out, rows)
	})
}

// errNotReady ends status and explain if something is not forwarded. The answer is on standard output.
var errNotReady = errors.New("not everything is ready")

func newStatusCommand(a *access) *cobra.Command {
	q := newQuestion(a, &cobra.Command{
		Use:   "status",
		Short: "Show each Mapping and what each gateway reports about it",
		Long: `status shows what the cluster knows: whether each Mapping is ready and, if not, why, and what each gateway reports. The exit code is 1 if a
Mapping is not ready. 'smartnatd status' on a gateway knows more: its uplinks, connections, bytes and refused packets.`,
		Args: noArguments,
	}).inNamespace()
	q.RunE = func(*cobra.Command, []string) error {
		if err := q.check(); err != nil {
			return err
		}
		namespace, err := q.space()
		if err != nil {
			return err
		}
		mappings, err := q.mappings(namespace)
		if err != nil {
			return err
		}
		states := plugin.Status(mappings)
		if err := q.print(states, "", plugin.StatusRows(states)); err != nil {
			return err
		}
		for _, s := range states {
			if s.Ready != metav1.ConditionTrue {
				return errNotReady
			}
		}
		return nil
	}
	return q.Command
}

func newExplainCommand(a *access) *cobra.Command {
	q := newQuestion(a, &cobra.Command{
		Use:   "explain SOURCE ADDRESS:PORT[/PROTOCOL]",
		Short: "Say which Mapping decides about a connection, and which gateway to ask for the rest",
		Long: `explain says from the Mappings of the cluster and their status whether a connection may get through. Only a gateway knows its rules,
routes and connections: explain prints the command to run there. The exit code is 1 if the connection does not get through.`,
		Example: "  kubectl smartnat explain 203.0.113.7 198.51.100.10:5432",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 2 {
				return usageError{errors.New("want a source and a destination, as in: kubectl smartnat explain 203.0.113.7 198.51.100.10:5432/tcp")}
			}
			return nil
		},
	})
	q.RunE = func(_ *cobra.Command, args []string) error {
		if err := q.check(); err != nil {
			return err
		}
		flow, err := explain.ParseArguments(args[0], args[1])
		if err != nil {
			return usageError{err}
		}
		mappings, err := q.mappings("")
		if err != nil {
			return err
		}
		answer := plugin.Explain(mappings, flow)
		if err := q.print(answer, plugin.Printable(answer.Sentence)+"\n", commandRows(answer.Ask)); err != nil {
			return err
		}
		if answer.Verdict != plugin.Forwarded {
			return errNotReady
		}
		return nil
	}
	return q.Command
}

func newConnectionsCommand(a *access) *cobra.Command {
	q := newQuestion(a, &cobra.Command{
		Use:   "connections [NAMESPACE/MAPPING]",
		Short: "Say on which gateways to list the open connections of Mappings",
		Long:  `Only gateways know connections: connections prints the command to run on each gateway that reports about the Mapping, or about any.`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 1 || len(args) == 1 && strings.Count(args[0], "/") != 1 {
				return usageError{errors.New("want at most one Mapping, as NAMESPACE/NAME")}
			}
			return nil
		},
	})
	q.RunE = func(_ *cobra.Command, args []string) error {
		if err := q.check(); err != nil {
			return err
		}
		mappings, err := q.mappings("")
		if err != nil {
			return err
		}
		commands, err := plugin.Connections(plugin.Status(mappings), strings.Join(args, ""))
		if err != nil {
			return err
		}
		text := ""
		if len(commands) == 0 {
			text = "no gateway reports\n"
		}
		return q.print(commands, text, commandRows(commands))
	}
	return q.Command
}

// commandRows returns a line for each gateway to ask.
func commandRows(commands []plugin.Command) [][]string {
	var rows [][]string
	for _, c := range commands {
		rows = append(rows, []string{"on " + plugin.Printable(c.Gateway) + ":", c.Command})
	}
	return rows
}
