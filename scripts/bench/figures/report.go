// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package figures

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Write writes a benchmark's report as text and JSON to files in dir that are named after the benchmark, replaces the last
// run in readme unless that is "", and prints the text.
func Write(dir, benchmark string, report any, text, readme string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	data, err := json.MarshalIndent(report, "", " ")
	if err != nil {
		return fmt.Errorf("writing JSON: %w", err)
	}
	name := filepath.Join(dir, benchmark)
	errs := []error{os.WriteFile(name+".md", []byte(text), 0o644), os.WriteFile(name+".json", append(data, '\n'), 0o644)}
	if readme != "" {
		errs = append(errs, ReplaceRun(readme, benchmark, text))
	}
	fmt.Printf("\n%s\nWritten to %s.md and .json.\n", text, name)
	return errors.Join(errs...)
}
