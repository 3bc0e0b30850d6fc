// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package logging

import (
	"fmt"
	"io"
	"os"

	"github.com/coreos/go-systemd/v22/journal"
	"github.com/sirupsen/logrus"
)

// Options configures a log.
type Options struct {
	// Level is a logrus level.
	Level string
	// Format is "text" or "json".
	Format string
}

// New returns a logger that writes to out. It fails if the level is unknown.
func New(options Options, out io.Writer) (*logrus.Logger, error) {
	log := logrus.New()
	log.SetOutput(out)
	return log, Configure(log, options)
}

// Configure configures a logger that may be in use. If the level is unknown, it returns an error and changes nothing.
func Configure(log *logrus.Logger, options Options) error {
	level, err := logrus.ParseLevel(options.Level)
	if err != nil {
		return fmt.Errorf("log.level: %w", err)
	}
	log.SetLevel(level)
	log.SetFormatter(newFormatter(options.Format, IsJournal(log.Out)))
	return nil
}

// IsJournal reports whether out goes to systemd's journal (systemd.exec(5), JOURNAL_STREAM).
func IsJournal(out io.Writer) bool {
	if out != io.Writer(os.Stderr) {
		return false
	}
	is, err := journal.StderrIsJournalStream()
	return err == nil && is
}

// newFormatter returns a formatter for lines of printable text. Lines for the journal begin with a priority and have no time,
// which the journal adds. Text is never colored, because logrus does not quote colored values.
func newFormatter(format string, journal bool) logrus.Formatter {
	var lines logrus.Formatter = &logrus.TextFormatter{DisableColors: true, FullTimestamp: true, DisableTimestamp: journal}
	if format == "json" {
		lines = &logrus.JSONFormatter{DisableTimestamp: journal}
	}
	return newBackoff(&lineFormatter{lines, journal})
}

// lineFormatter escapes control characters, and adds the priority of sd-daemon(3) for the journal.
type lineFormatter struct {
	logrus.Formatter
	journal bool
}

// Format implements logrus.Formatter.
func (f *lineFormatter) Format(entry *logrus.Entry) ([]byte, error) {
	line, err := f.Formatter.Format(entry)
	if err != nil {
		return nil, err
	}
	if f.journal {
		line = append([]byte(Priority(entry.Level)), line...)
	}
	return Printable(line), nil
}

// Priority returns the prefix that systemd reads as the level (SyslogLevelPrefix=).
func Priority(level logrus.Level) string {
	switch level {
	case logrus.PanicLevel, logrus.FatalLevel:
		return "<2>"
	case logrus.ErrorLevel:
		return "<3>"
	case logrus.WarnLevel:
		return "<4>"
	case logrus.InfoLevel:
		return "<6>"
	}
	return "<7>"
}
