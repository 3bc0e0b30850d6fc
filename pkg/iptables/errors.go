// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package iptables

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"strings"

	"github.com/smartnat/smartnat/pkg/gateway"
)

// ErrLocked says that another program held the lock for longer than LockTimeout; trying again may help.
var ErrLocked = errors.New("another program holds the lock of iptables")

// ErrHung says that a program was killed because it did not end: nothing may wait for one for ever. To those who do not know
// of programs it is context.DeadlineExceeded.
var ErrHung error = hungError{}

type hungError struct{}

func (hungError) Error() string { return "the program did not end in time and was killed" }

func (hungError) Is(target error) bool { return target == context.DeadlineExceeded }

// LineError says which line of a batch was refused. It is gateway.ErrRefused, unless that may pass by itself.
type LineError struct {
	// Line counts from 1; Text is what it says.
	Line int
	Text string
	// table is which of the batch's tables the line is in.
	table int
	err   error
	// passing is set when the same may be taken another time.
	passing bool
}

// Error names the line and what the program said of it.
func (e *LineError) Error() string { return fmt.Sprintf("line %d, %q: %v", e.Line, e.Text, e.err) }

// Is says whether it is gateway.ErrRefused.
func (e *LineError) Is(target error) bool { return target == gateway.ErrRefused && !e.passing }

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

// passing is what a program says when the kernel had no room or no time, or would not let it: EAGAIN, ENOMEM, EBUSY, EINTR,
// ENOBUFS, EPERM, EMFILE and their like are about no line, whatever line is named. The exit status does not tell: that of
// nf_tables is 4 for anything that the kernel said no to, that of legacy is 1. Legacy of before 1.8.10 does not tell these
// apart at all.
var passing = regexp.MustCompile(`temporarily unavailable|annot allocate memory|emory allocation|resource busy|Interrupted|` +
	`No buffer space|not permitted|ermission denied|Too many open files`)

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
	// Who was killed had not come to its end.
	var exit *exec.ExitError
	ended := errors.As(failed.err, &exit) && exit.Exited()
	return &LineError{
		Line: number, Text: string(lines[number-1]), table: table, err: err, passing: !ended || passing.MatchString(failed.stderr),
	}
}
