// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/smartnat/smartnat/pkg/objects"
	"github.com/smartnat/smartnat/pkg/plan"
	"github.com/smartnat/smartnat/pkg/source"
)

// errDiffers ends diff if something differs. The answer is on standard output.
var errDiffers = errors.New("differences found")

// exitTrouble is the exit code of diff if it could not compare, as with diff(1).
const exitTrouble = 2

func newDiffCommand() *cobra.Command {
	var files []string
	var rules bool
	q := newQuestion(&cobra.Command{
		Use:   "diff [-f FILE]",
		Short: "Compare the kernel with what is desired, or say what a manifest would change; changes nothing",
		Long: `diff asks the running smartnatd to compare the rules, sets, routes, ip rules and sysctls in the kernel with those that its objects
require. A line with + says what is missing in the kernel, one with - what is there and should not be.

With -f it lays the Mappings, Services and EndpointSlices of the files over the current objects, says for each Mapping what would change,
and compares the kernel with the result. It never removes objects that the files do not have.

It does not compare connections, rules of a data plane that is not in use, and sysctls that would get their old values back.

Exit codes: 0 no differences; 1 differences, or a manifest that changes something; 2 it could not compare.`,
		Example: "  smartnatd diff\n  smartnatd diff -f mapping.yaml\n  kubectl get mapping web -o yaml | smartnatd diff -f -",
		Args:    cobra.NoArgs,
	})
	q.Flags().StringArrayVarP(&files, "filename", "f", nil, "a `file` or folder of objects, or - for standard input; may be given several times")
	q.Flags().BoolVar(&rules, "rules", false, "print all differences in the kernel, instead of a few for each Mapping")
	q.RunE = func(cmd *cobra.Command, _ []string) error {
		client, err := q.client()
		if err != nil {
			return codeError{err, exitTrouble}
		}
		var documents *objects.Snapshot
		if len(files) > 0 {
			read, err := source.ReadFiles(files, cmd.InOrStdin())
			if err != nil {
				return usageError{err}
			}
			documents = &read
		}
		answer, err := client.Diff(cmd.Context(), documents)
		if err != nil {
			return codeError{err, exitTrouble}
		}
		if err := q.print(answer, func(w io.Writer) error { return printDiff(w, answer, documents != nil, rules) }); err != nil {
			return codeError{err, exitTrouble}
		}
		if !answer.Empty() {
			return errDiffers
		}
		return nil
	}
	return q.Command
}

// shownRules bounds the differences in the kernel that a table has for each Mapping.
const shownRules = 5

// printDiff writes what a manifest changes, and then the kernel, grouped by Mapping.
func printDiff(w io.Writer, d plan.Diff, preview, all bool) error {
	var text strings.Builder
	for _, m := range d.Mappings {
		fmt.Fprintf(&text, "Mapping %s would change\n", m.Mapping)
		for _, c := range m.Changes {
			text.WriteString(changeLines(c))
		}
		for _, problem := range m.Problems {
			fmt.Fprintf(&text, "  problem: %s\n", problem)
		}
		for _, solved := range m.Solved {
			fmt.Fprintf(&text, "  solved: %s\n", solved)
		}
	}
	switch {
	case d.Empty():
		text.WriteString("no differences\n")
	case d.Total == 0:
		text.WriteString("the kernel would not change\n")
	case preview:
		fmt.Fprintf(&text, "%d things would change in the kernel (+ added, - removed)\n", d.Total)
	default:
		fmt.Fprintf(&text, "%d things differ in the kernel (+ missing, - not wanted)\n", d.Total)
	}
	for len(d.Kernel) > 0 {
		n := slices.IndexFunc(d.Kernel, func(o plan.Difference) bool { return o.Mapping != d.Kernel[0].Mapping })
		if n < 0 {
			n = len(d.Kernel)
		}
		writeGroup(&text, d.Kernel[:n], all)
		d.Kernel = d.Kernel[n:]
	}
	_, err := io.WriteString(w, text.String())
	return err
}

func writeGroup(text *strings.Builder, group []plan.Difference, all bool) {
	name := "the whole gateway, or several Mappings"
	if group[0].Mapping != "" {
		name = "Mapping " + group[0].Mapping
	}
	fmt.Fprintf(text, "  %s\n", name)
	for i, one := range group {
		if i == shownRules && !all {
			fmt.Fprintf(text, "    and %d more: --rules prints them\n", len(group)-i)
			return
		}
		sign := "-"
		if one.Missing {
			sign = "+"
		}
		kind := strings.ReplaceAll(one.Kind, "_", " ")
		if one.Family != 0 {
			kind += fmt.Sprintf(" IPv%d", one.Family)
		}
		if one.Place != "" {
			kind += " " + one.Place
		}
		fmt.Fprintf(text, "    %s %s: %s\n", sign, kind, one.Text)
	}
}

// changeLines spells a change: one line if something comes or goes, two if it changes.
func changeLines(c plan.Change) string {
	lines := ""
	if c.Before != nil {
		lines += fmt.Sprintf("  - %s%s\n", c.Of, targetText(c.Before))
	}
	if c.After != nil {
		lines += fmt.Sprintf("  + %s%s\n", c.Of, targetText(c.After))
	}
	return lines
}

func targetText(t *plan.Target) string {
	text := ""
	if len(t.Backends) > 0 {
		text += " -> " + some(t.Backends)
	}
	if len(t.Sources) > 0 {
		text += " for " + some(t.Sources)
	}
	if len(t.Options) > 0 {
		text += " (" + strings.Join(t.Options, ", ") + ")"
	}
	return text
}
