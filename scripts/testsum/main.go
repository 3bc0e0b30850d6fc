// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Command testsum reads what `go test -json` writes and shows what a person wants to see of it: the closing line of each
// package, slow tests as they end, skips with their reason, failures with all their output, and at the very end one line
// that counts them. It only reads and prints: whether the tests passed is its exit code too, so that a pipe hides nothing.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
)

func main() {
	failed, err := summarize(os.Stdin, os.Stdout)
	if err != nil {
		fmt.Fprintf(os.Stderr, "testsum: %v\n", err)
	}
	if failed || err != nil {
		os.Exit(1)
	}
}

// event is a line of `go test -json` (go doc test2json).
type event struct {
	Action     string
	Package    string
	ImportPath string // of build output
	Test       string
	Output     string
	Elapsed    float64
}

// slow is from how many seconds on a test is shown when it passes, so that a long run is not silent.
const slow = 2

type summary struct {
	out                     io.Writer
	passed, failed, skipped int
	// output is what unfinished tests have printed, by package and test.
	output map[string]*strings.Builder
	// failedIn counts the failed tests of a package: one that fails without any did not build, crashed or timed out.
	failedIn map[string]int
}

// summarize returns whether anything failed.
func summarize(in io.Reader, out io.Writer) (bool, error) {
	s := summary{out: out, output: map[string]*strings.Builder{}, failedIn: map[string]int{}}
	lines := bufio.NewReader(in)
	for {
		line, err := lines.ReadString('\n')
		if line != "" {
			s.line(line)
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return true, fmt.Errorf("reading test events: %w", err)
		}
	}
	_, err := fmt.Fprintf(out, "%d passed, %d failed, %d skipped\n", s.passed, s.failed, s.skipped)
	return s.failed > 0, err
}

func (s *summary) line(line string) {
	var e event
	if json.Unmarshal([]byte(line), &e) != nil {
		// Not an event: go itself says something, such as a download or a setup that failed.
		fmt.Fprint(s.out, line)
		return
	}
	switch {
	case e.Action == "build-output":
		fmt.Fprint(s.out, e.Output)
	case e.Test == "":
		s.pkg(e)
	default:
		s.test(e)
	}
}

// pkg takes events of a package as a whole. Its lines are go test's own: "ok", "FAIL", "no test files", panics.
func (s *summary) pkg(e event) {
	switch e.Action {
	case "output":
		if e.Output != "PASS\n" && !strings.HasSuffix(e.Output, "[no test files]\n") {
			fmt.Fprint(s.out, e.Output)
		}
	case "fail":
		// A crash leaves its last words with the test that ran.
		for key, text := range s.output {
			if strings.HasPrefix(key, e.Package+" ") {
				fmt.Fprint(s.out, text.String())
				delete(s.output, key)
			}
		}
		if s.failedIn[e.Package] == 0 {
			s.failed++
		}
	}
}

func (s *summary) test(e event) {
	key := e.Package + " " + e.Test
	if e.Action == "output" {
		if s.output[key] == nil {
			s.output[key] = &strings.Builder{}
		}
		s.output[key].WriteString(e.Output)
		return
	}
	var text string
	if b := s.output[key]; b != nil {
		text = b.String()
	}
	switch e.Action {
	case "pass":
		s.passed++
		if e.Elapsed >= slow && !strings.Contains(e.Test, "/") {
			fmt.Fprintf(s.out, "    %s.%s passed in %.0f s\n", e.Package[strings.LastIndex(e.Package, "/")+1:], e.Test, e.Elapsed)
		}
	case "fail":
		s.failed++
		s.failedIn[e.Package]++
		fmt.Fprint(s.out, text)
	case "skip":
		s.skipped++
		fmt.Fprint(s.out, text)
	default:
		return // run, pause, cont
	}
	delete(s.output, key)
}
