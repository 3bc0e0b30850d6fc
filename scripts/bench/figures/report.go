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

// Write puts a benchmark's report where people and programs look for it, in files of its name in a folder, and its text into a
// README when one is named. It prints the text.
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
	fmt.Printf("\n%s\n%s.md and .json hold this.\n", text, name)
	return errors.Join(errs...)
}
