// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package iptables

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// ErrLocked says that another program held the lock for longer than LockTimeout; trying again may help.
var ErrLocked = errors.New("another program holds the lock of iptables")

// ErrHung says that a program was killed because it did not end: nothing may wait for one for ever.
var ErrHung = errors.New("the program did not end in time and was killed")

// LineError says which line of a batch was refused.
type LineError struct {
	// Line counts from 1; Text is what it says.
	Line int
	Text string
	// table is which of the batch's tables the line is in.
	table int
	err   error
}

// Error names the line and what the program said of it.
func (e *LineError) Error() string { return fmt.Sprintf("line %d, %q: %v", e.Line, e.Text, e.err) }

// Unwrap returns what the program said.
func (e *LineError) Unwrap() error { return e.err }

// runError is a program that failed.
type runError struct {
	command string
	err     error
	stderr  string
}

func (e *runError) Error() string {
	if e.stderr == "" {
		return fmt.Sprintf("running %s: %v", e.command, e.err)
	}
	return fmt.Sprintf("running %s: %v: %s", e.command, e.err, strings.Join(strings.Fields(e.stderr), " "))
}

func (e *runError) Unwrap() error { return e.err }

// refusedLine is how both back ends name a line: "line 3 failed", "Error occurred at line: 3", "line 3: RULE_APPEND failed".
var refusedLine = regexp.MustCompile(`\bline:? (\d+)`)

// describe finds out what a failed run means.
func describe(err error, input []byte) error {
	var failed *runError
	if !errors.As(err, &failed) {
		return err
	}
	if strings.Contains(failed.stderr, "xtables lock") || strings.Contains(failed.stderr, "xtables.lock") {
		return fmt.Errorf("%w: %w", ErrLocked, err)
	}
	found := refusedLine.FindStringSubmatch(failed.stderr)
	if found == nil {
		return err
	}
	number, convErr := strconv.Atoi(found[1])
	lines := bytes.Split(input, []byte("\n"))
	if convErr != nil || number < 1 || number > len(lines) {
		return err
	}
	table := -1
	for _, line := range lines[:number] {
		if bytes.HasPrefix(line, []byte("*")) {
			table++
		}
	}
	if table < 0 {
		return err
	}
	return &LineError{Line: number, Text: string(lines[number-1]), table: table, err: err}
}
