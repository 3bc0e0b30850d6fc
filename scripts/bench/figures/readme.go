// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package figures

import (
	"fmt"
	"os"
	"strings"
)

// ReplaceRun puts a benchmark's run, whose headings are of the third level, in the place of the last one in a README, which
// stands between two comments that name the benchmark.
func ReplaceRun(path, benchmark, run string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	begin, end := mark(benchmark, "begins"), mark(benchmark, "ends")
	before, rest, ok := strings.Cut(string(text), begin)
	_, after, ended := strings.Cut(rest, end)
	if !ok || !ended {
		return fmt.Errorf("%s: no lines %q and %q to write between", path, strings.TrimSpace(begin), strings.TrimSpace(end))
	}
	run = strings.ReplaceAll(run, "\n### ", "\n#### ")
	return os.WriteFile(path, []byte(before+begin+"\n"+run+"\n"+end+after), 0o644)
}

func mark(benchmark, what string) string {
	return fmt.Sprintf("<!-- %s: the last run %s -->\n", benchmark, what)
}
