// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package scripts tests documents against the code.
package scripts

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const root = ".."

// walk calls f for all files of the tree, except hidden ones.
func walk(t *testing.T, f func(path string)) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && strings.HasPrefix(entry.Name(), ".") && path != root:
			return fs.SkipDir
		case !entry.IsDir():
			f(path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// tests returns the names of all test functions in the tree that begin with Test, test or Fuzz.
func tests(t *testing.T) map[string]bool {
	t.Helper()
	declaration := regexp.MustCompile(`(?m)^func ((?:[Tt]est|Fuzz)[A-Z]\w*)\(`)
	found := map[string]bool{}
	walk(t, func(path string) {
		if !strings.HasSuffix(path, "_test.go") {
			return
		}
		for _, match := range declaration.FindAllStringSubmatch(read(t, path), -1) {
			found[match[1]] = true
		}
	})
	return found
}

// named returns the tests that a document names between backticks.
func named(text string) []string {
	var names []string
	for _, match := range regexp.MustCompile("`((?:[Tt]est|Fuzz)[A-Z]\\w*)`").FindAllStringSubmatch(text, -1) {
		names = append(names, match[1])
	}
	return names
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestNamedTestsExist checks that the tests that documents name exist.
func TestNamedTestsExist(t *testing.T) {
	all := tests(t)
	for path, least := range map[string]int{root + "/README.md": 10, "README.md": 30, "promises.md": 60} {
		names := named(read(t, path))
		if len(names) < least {
			t.Errorf("%s names %d tests, want at least %d", path, len(names), least)
		}
		for _, name := range names {
			if !all[name] {
				t.Errorf("%s names the test %s, which does not exist", path, name)
			}
		}
	}
}

// TestEveryFuzzTargetIsListed checks that scripts/README.md lists the input of each fuzz target.
func TestEveryFuzzTargetIsListed(t *testing.T) {
	listed := map[string]bool{}
	for _, name := range named(read(t, "README.md")) {
		listed[name] = true
	}
	for name := range tests(t) {
		if strings.HasPrefix(name, "Fuzz") && !listed[name] {
			t.Errorf("%s is not in scripts/README.md", name)
		}
	}
}

// TestEveryPromiseIsProved checks that each promise names a test, and that the tests of the README's promises are in the whole
// list too.
func TestEveryPromiseIsProved(t *testing.T) {
	_, section, found := strings.Cut(read(t, root+"/README.md"), "\n## What is promised")
	if !found {
		t.Fatal("README.md has no section with promises")
	}
	section, _, _ = strings.Cut(section, "\n## ")
	listed := map[string]bool{}
	for _, name := range promised(t, "promises.md", read(t, "promises.md"), 38) {
		listed[name] = true
	}
	for _, name := range promised(t, "README.md", section, 10) {
		if !listed[name] {
			t.Errorf("README.md names %s, which promises.md does not", name)
		}
	}
}

// promised returns the tests of a table of promises. It fails if a promise has none or if it has fewer promises than least.
func promised(t *testing.T, path, text string, least int) []string {
	t.Helper()
	var names []string
	promises := 0
	for line := range strings.Lines(text) {
		heading := strings.HasPrefix(line, "| promise") || strings.HasPrefix(line, "| ---") || strings.HasPrefix(line, "| **")
		if !strings.HasPrefix(line, "| ") || heading {
			continue
		}
		promises++
		found := named(line)
		if len(found) == 0 {
			t.Errorf("%s: no test proves: %s", path, line)
		}
		names = append(names, found...)
	}
	if promises < least {
		t.Errorf("%s has %d promises, want at least %d", path, promises, least)
	}
	return names
}
