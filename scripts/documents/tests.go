// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

var (
	declaredTest = regexp.MustCompile(`(?m)^func (Test[A-Z]\w*)\(`)
	quoted       = regexp.MustCompile(`"(?:[^"\\\n]|\\.)+"`)
	namedTest    = regexp.MustCompile(`\bTest[A-Z]\w*(?:…|(?:/[\w',-]+)*)`)
)

// declared has the tests of a tree.
type declared struct {
	// folders are those that have a test, texts all literals in the tests of a folder, as testing writes them in the name of a subtest.
	folders map[string][]string
	texts   map[string]map[string]bool
}

// declaredIn reads the tests that git lists or would add, in the folder root.
func declaredIn(root string) (declared, error) {
	d := declared{map[string][]string{}, map[string]map[string]bool{}}
	list := exec.Command("git", "ls-files", "--cached", "--others", "--exclude-standard", "--deduplicate", "*_test.go")
	list.Dir = root
	out, err := list.Output()
	if err != nil {
		return d, fmt.Errorf("listing the tests: %w", err)
	}
	for file := range strings.Lines(string(out)) {
		file = strings.TrimSpace(file)
		text, err := os.ReadFile(filepath.Join(root, file))
		if os.IsNotExist(err) { // deleted but not committed yet
			continue
		}
		if err != nil {
			return d, fmt.Errorf("reading tests: %w", err)
		}
		d.add(path.Dir(file), string(text))
	}
	return d, nil
}

func (d declared) add(folder, text string) {
	for _, test := range declaredTest.FindAllStringSubmatch(text, -1) {
		d.folders[test[1]] = append(d.folders[test[1]], folder)
	}
	if d.texts[folder] == nil {
		d.texts[folder] = map[string]bool{}
	}
	for _, literal := range quoted.FindAllString(text, -1) {
		if name, err := strconv.Unquote(literal); err == nil {
			d.texts[folder][strings.ReplaceAll(name, " ", "_")] = true
		}
	}
}

// check returns a fault for each test that a document names, outside of code in Go, and that does not exist.
func (d declared) check(document, text string) (faults []string) {
	for _, l := range lines(text) {
		if l.language == "go" && l.code {
			continue
		}
		for _, name := range namedTest.FindAllString(l.text, -1) {
			if !d.has(name) {
				faults = append(faults, fmt.Sprintf("%s:%d: there is no test %s", document, l.number, name))
			}
		}
	}
	return faults
}

// has reports whether a test, a subtest, or a test with the beginning of "TestName…" exists.
func (d declared) has(name string) bool {
	if prefix, some := strings.CutSuffix(name, "…"); some {
		for test := range d.folders {
			if strings.HasPrefix(test, prefix) {
				return true
			}
		}
	}
	parts := strings.Split(name, "/")
folders:
	for _, folder := range d.folders[parts[0]] {
		for _, part := range parts[1:] {
			if !d.texts[folder][part] {
				continue folders
			}
		}
		return true
	}
	return false
}
