// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package check

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode"
)

// Level is the severity of a Line.
type Level int

// The values of levels are the exit codes of the command.
const (
	OK Level = iota
	Warning
	Failed
)

// String returns the first word of a line.
func (l Level) String() string {
	switch l {
	case OK:
		return "ok"
	case Warning:
		return "WARN"
	}
	return "FAILED"
}

// Line is one finding of a Check, or the statement that there is none.
type Line struct {
	Level Level
	// What, Text: the subject, such as "iptables", and the observation, which may be empty if all is well.
	What, Text string
}

// String returns the printed line: always a single one, without control characters.
func (l Line) String() string {
	line := fmt.Sprintf("%-6s  %s", l.Level, l.What)
	if l.Text != "" {
		line += ": " + l.Text
	}
	return printable(line)
}

// printable keeps printable characters, and quotes others as Go does.
func printable(text string) string {
	var b strings.Builder
	for _, r := range strings.TrimRight(text, " \n") {
		switch {
		case r == '\n':
			b.WriteString("; ")
		case unicode.IsPrint(r):
			b.WriteRune(r)
		default:
			b.WriteString(strings.Trim(strconv.QuoteRune(r), "'"))
		}
	}
	return b.String()
}

// Check checks one subject.
type Check interface {
	// Lines returns at least one line.
	Lines(ctx context.Context) []Line
}

// Func is a Check by a function.
type Func func(ctx context.Context) []Line

// Lines implements Check.
func (f Func) Lines(ctx context.Context) []Line { return f(ctx) }

// Report has the results of all checks.
type Report struct {
	Warnings, Failures int
	// Lines are those of all checks.
	Lines []Line
}

// Level returns the level of the worst line.
func (r Report) Level() Level {
	switch {
	case r.Failures > 0:
		return Failed
	case r.Warnings > 0:
		return Warning
	}
	return OK
}

// Run runs the checks, and prints the lines of each as soon as it has them.
func Run(ctx context.Context, out io.Writer, checks ...Check) Report {
	var report Report
	for _, c := range checks {
		for _, line := range c.Lines(ctx) {
			switch line.Level {
			case OK:
			case Warning:
				report.Warnings++
			default:
				report.Failures++
			}
			report.Lines = append(report.Lines, line)
			fmt.Fprintln(out, line)
		}
	}
	return report
}

func ok(what, format string, args ...any) []Line { return one(OK, what, format, args...) }

func one(level Level, what, format string, args ...any) []Line {
	return []Line{{level, what, fmt.Sprintf(format, args...)}}
}

// Errors returns a failure for each line of err, or one OK line.
func Errors(what string, err error) []Line {
	if err == nil {
		return ok(what, "")
	}
	var lines []Line
	for text := range strings.Lines(err.Error()) {
		lines = append(lines, one(Failed, what, "%s", strings.TrimSpace(text))...)
	}
	return lines
}
