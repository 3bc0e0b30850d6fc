// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Command documents checks what the Markdown documents of the tree name: that the file and the heading of each link exist, other files and tests that they name, and the
// commands and flags of this project's programs and the targets of its Makefile, and that a cluster accepts their Mappings. It builds the programs and reads their help. It changes
// nothing, and exits with 1 if it reports anything. Addresses on the web are not visited.
package main

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

func main() {
	faults, err := run()
	if err != nil {
		fmt.Fprintf(os.Stderr, "documents: %v\n", err)
		os.Exit(2)
	}
	for _, fault := range faults {
		fmt.Println(fault)
	}
	if len(faults) > 0 {
		fmt.Fprintf(os.Stderr, "documents: %d to correct\n", len(faults))
		os.Exit(1)
	}
}

// run checks the tree in the working directory.
func run() ([]string, error) {
	listed, err := markdown(".")
	if err != nil {
		return nil, err
	}
	documents, err := load(".", listed)
	if err != nil {
		return nil, err
	}
	folder, err := os.MkdirTemp("", "documents")
	if err != nil {
		return nil, fmt.Errorf("making a folder for the programs: %w", err)
	}
	defer os.RemoveAll(folder)
	if out, err := exec.Command("go", "build", "-o", folder+"/", "./cmd/...").CombinedOutput(); err != nil {
		return nil, fmt.Errorf("building the programs: %w\n%s", err, out)
	}
	makefile, err := os.ReadFile("Makefile")
	if err != nil {
		return nil, fmt.Errorf("reading the targets of make: %w", err)
	}
	known := knowledge{targets: targets(string(makefile)), programs: map[string]*command{}}
	programs, err := filepath.Glob(folder + "/*")
	if err != nil {
		return nil, err
	}
	for _, program := range programs {
		if known.programs[called(filepath.Base(program))], err = learn(program); err != nil {
			return nil, err
		}
	}
	tests, err := declaredIn(".")
	if err != nil {
		return nil, err
	}
	faults := links(".", documents)
	for _, path := range slices.Sorted(maps.Keys(documents)) {
		faults = append(faults, known.check(path, documents[path])...)
		faults = append(faults, paths(".", path, documents[path])...)
		faults = append(faults, examples(path, documents[path])...)
		faults = append(faults, tests.check(path, documents[path])...)
	}
	return faults, nil
}

// markdown returns the documents that git lists or would add, in the folder root.
func markdown(root string) ([]string, error) {
	list := exec.Command("git", "ls-files", "--cached", "--others", "--exclude-standard", "--deduplicate", "*.md")
	list.Dir = root
	out, err := list.Output()
	if err != nil {
		return nil, fmt.Errorf("listing the documents: %w", err)
	}
	var paths []string
	for path := range strings.Lines(string(out)) {
		if path = strings.TrimSpace(path); !strings.Contains(path, "/testdata/") {
			paths = append(paths, path)
		}
	}
	return paths, nil
}

// load reads documents below root; one that is deleted but not committed yet is left out.
func load(root string, paths []string) (map[string]string, error) {
	documents := map[string]string{}
	for _, path := range paths {
		text, err := os.ReadFile(filepath.Join(root, path))
		if err != nil && !os.IsNotExist(err) {
			return nil, fmt.Errorf("reading a document: %w", err)
		}
		if err == nil {
			documents[path] = string(text)
		}
	}
	return documents, nil
}
