// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build pages

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/cpuguy83/go-md2man/v2/md2man"
	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

// buildCommands returns commands for the build of packages only: their dependencies would grow every smartnatd otherwise.
func buildCommands() []*cobra.Command {
	return []*cobra.Command{{
		Use:    "pages REFERENCE FOLDER",
		Short:  "Write man pages and completions of all commands, and smartnat.yaml(5) from the reference",
		Hidden: true,
		Args:   cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			root := newRootCommand()
			root.DisableAutoGenTag = true
			return writePages(root, args[0], args[1])
		},
	}}
}

func writePages(root *cobra.Command, reference, folder string) error {
	epoch, err := strconv.ParseInt(os.Getenv("SOURCE_DATE_EPOCH"), 10, 64)
	if err != nil {
		return fmt.Errorf("SOURCE_DATE_EPOCH: %w", err)
	}
	date := time.Unix(epoch, 0).UTC()
	header := doc.GenManHeader{Section: "8", Date: &date, Source: "SmartNat", Manual: "SmartNat"}
	if err := doc.GenManTree(root, &header, folder); err != nil {
		return err
	}
	if err := writeReference(reference, filepath.Join(folder, "smartnat.yaml.5"), date); err != nil {
		return err
	}
	if err := root.GenBashCompletionFileV2(filepath.Join(folder, "smartnatd.bash"), true); err != nil {
		return err
	}
	if err := root.GenZshCompletionFile(filepath.Join(folder, "_smartnatd")); err != nil {
		return err
	}
	return root.GenFishCompletionFile(filepath.Join(folder, "smartnatd.fish"), true)
}

// writeReference makes a man page of the config file that documents all keys.
func writeReference(reference, page string, date time.Time) error {
	text, err := os.ReadFile(reference)
	if err != nil {
		return err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%% \"SMARTNAT.YAML\" \"5\" \"%s\" \"SmartNat\" \"SmartNat\"\n", date.Format("Jan 2006"))
	b.WriteString("# NAME\nsmartnat.yaml - the config file of smartnatd\n\n# DESCRIPTION\n")
	b.WriteString("/etc/smartnat.yaml is read by smartnatd(8). This page lists all keys; commented-out ones show the default or an example.\n\n")
	for line := range strings.Lines(string(text)) {
		b.WriteString("    " + line)
	}
	b.WriteString("\n# FILES\n/usr/share/doc/smartnat/smartnat.yaml has the same text.\n\n# SEE ALSO\nsmartnatd(8), smartnatd-check(8)\n")
	return os.WriteFile(page, md2man.Render([]byte(b.String())), 0o644)
}
