// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package printer prints answers of commands, as a table for people or as JSON or YAML for programs. It must not know what an answer
// means.
package printer

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/pflag"
	"sigs.k8s.io/yaml"
)

// Format is how a command prints its answer.
type Format string

// The formats.
const (
	Table Format = "table"
	JSON  Format = "json"
	YAML  Format = "yaml"
)

// AddFlag adds the flag that chooses the format.
func (f *Format) AddFlag(flags *pflag.FlagSet) {
	flags.StringVarP((*string)(f), "output", "o", string(Table), "`format` of the answer: table, json or yaml")
}

// Validate returns an error if there is no such format.
func (f Format) Validate() error {
	switch f {
	case Table, JSON, YAML:
		return nil
	}
	return fmt.Errorf("--output %q: want table, json or yaml", string(f))
}

// Write prints the answer. table prints it for people.
func (f Format) Write(out io.Writer, answer any, table func(io.Writer) error) error {
	switch f {
	case JSON:
		encoder := json.NewEncoder(out)
		encoder.SetIndent("", "  ")
		return encoder.Encode(answer)
	case YAML:
		text, err := yaml.Marshal(answer)
		if err != nil {
			return fmt.Errorf("formatting the answer: %w", err)
		}
		_, err = out.Write(text)
		return err
	}
	return table(out)
}

// WriteRows prints rows in columns.
func WriteRows(out io.Writer, rows [][]string) error {
	writer := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		if _, err := fmt.Fprintln(writer, strings.Join(row, "\t")); err != nil {
			return err
		}
	}
	return writer.Flush()
}
