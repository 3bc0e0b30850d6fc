// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package figures

import (
	"fmt"
	"os"
	"strings"
)

// ReplaceRun replaces the last run of a benchmark in a README with run. The run is between two HTML comments that name the
// benchmark. Its headings of the third level become headings of the fourth level.
func ReplaceRun(path, benchmark, run string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	begin, end := mark(benchmark, "begins"), mark(benchmark, "ends")
	before, rest, ok := strings.Cut(string(text), begin)
	_, after, ended := strings.Cut(rest, end)
	if !ok || !ended {
		return fmt.Errorf("%s: lines %q and %q not found", path, strings.TrimSpace(begin), strings.TrimSpace(end))
	}
	run = strings.ReplaceAll(run, "\n### ", "\n#### ")
	return os.WriteFile(path, []byte(before+begin+"\n"+run+"\n"+end+after), 0o644)
}

func mark(benchmark, what string) string {
	return fmt.Sprintf("<!-- %s: the last run %s -->\n", benchmark, what)
}
