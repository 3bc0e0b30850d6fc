// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Command words reads the comments, strings and documents of the tree and reports the phrases that this project does not
// use, each with what to write instead, and log messages that are too long to scan. It reads only files that git lists and
// changes nothing. It exits with 1 if it reports anything.
package main

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
)

func main() {
	list, err := exec.Command("git", "ls-files", "--cached", "--others", "--exclude-standard", "--deduplicate").Output()
	if err != nil {
		fmt.Fprintf(os.Stderr, "words: listing the files of the tree: %v\n", err)
		os.Exit(2)
	}
	found := 0
	for path := range strings.Lines(string(list)) {
		path = strings.TrimSpace(path)
		if !reads(path, os.Args[1:]) {
			continue
		}
		text, err := os.ReadFile(path)
		if os.IsNotExist(err) {
			continue // deleted, and not committed yet
		}
		if err != nil {
			fmt.Fprintf(os.Stderr, "words: %v\n", err)
			os.Exit(2)
		}
		hits, err := check(path, text)
		if err != nil {
			fmt.Fprintf(os.Stderr, "words: %v\n", err)
			os.Exit(2)
		}
		for _, hit := range hits {
			fmt.Printf("%s:%d: %s\n", path, hit.line, hit.text)
		}
		found += len(hits)
	}
	if found > 0 {
		fmt.Fprintf(os.Stderr, "words: %d to rewrite\n", found)
		os.Exit(1)
	}
}
