// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package program

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

// ErrLocked means that another program held the lock for longer than LockTimeout. A retry may succeed.
var ErrLocked = errors.New("another program holds the lock of iptables")

// ErrHung means that a program did not end in time and was killed. It matches context.DeadlineExceeded, so that callers need
// not know about programs.
var ErrHung error = hungError{}

type hungError struct{}

func (hungError) Error() string { return "the program did not end in time and was killed" }

func (hungError) Is(target error) bool { return target == context.DeadlineExceeded }

// LineError names the line of a batch that was refused. It matches gateway.ErrRefused unless the cause is temporary.
type LineError struct {
	// Line counts from 1. Text is the content of the line.
	Line int
	Text string
	// table is the index of the line's table in the batch.
	table int
	err   error
	// passing means that the same line may be accepted later.
	passing bool
}

// Error returns the line and the output of the program.
func (e *LineError) Error() string { return fmt.Sprintf("line %d, %q: %v", e.Line, e.Text, e.err) }

// Is reports whether target is gateway.ErrRefused and the cause is not temporary.
func (e *LineError) Is(target error) bool { return target == gateway.ErrRefused && !e.passing }

// Unwrap returns the error of the program.
func (e *LineError) Unwrap() error { return e.err }

// runError is the failure of a program.
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

// refusedLine matches the line number in the errors of both variants: "line 3 failed", "Error occurred at line: 3", "line 3:
// RULE_APPEND failed".
var refusedLine = regexp.MustCompile(`\bline:? (\d+)`)

// passing matches errors of the kernel that are not about the line that they name: EAGAIN, ENOMEM, EBUSY, EINTR, ENOBUFS,
// EPERM, EMFILE and similar. The exit status does not help: nf_tables exits with 4 for every error of the kernel, legacy with
// 1. Legacy before 1.8.10 does not distinguish these errors at all.
var passing = regexp.MustCompile(`temporarily unavailable|annot allocate memory|emory allocation|resource busy|Interrupted|` +
	`No buffer space|not permitted|ermission denied|Too many open files`)

// describe converts the error of a failed run into a typed one.
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
	// A program that was killed did not finish, so its output does not prove a refusal.
	var exit *exec.ExitError
	ended := errors.As(failed.err, &exit) && exit.Exited()
	return &LineError{
		Line: number, Text: string(lines[number-1]), table: table, err: err, passing: !ended || passing.MatchString(failed.stderr),
	}
}
