// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"os"

	"github.com/coreos/go-systemd/v22/journal"
	"github.com/sirupsen/logrus"

	"github.com/smartnat/smartnat/pkg/config"
)

func newLogger(cfg config.Log, out io.Writer) (*logrus.Logger, error) {
	log := logrus.New()
	log.SetOutput(out)
	return log, configureLogger(log, cfg)
}

// configureLogger configures a logger that may be in use.
func configureLogger(log *logrus.Logger, cfg config.Log) error {
	level, err := logrus.ParseLevel(cfg.Level)
	if err != nil {
		return usageError{fmt.Errorf("log.level: %w", err)}
	}
	log.SetLevel(level)
	log.SetFormatter(newFormatter(cfg.Format, isJournal(log.Out)))
	return nil
}

// isJournal reports whether out goes to systemd's journal (systemd.exec(5), JOURNAL_STREAM).
func isJournal(out io.Writer) bool {
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
		line = append(priority(entry.Level), line...)
	}
	return printable(line), nil
}

// priority returns the prefix that systemd reads as the level (SyslogLevelPrefix=).
func priority(level logrus.Level) []byte {
	switch level {
	case logrus.PanicLevel, logrus.FatalLevel:
		return []byte("<2>")
	case logrus.ErrorLevel:
		return []byte("<3>")
	case logrus.WarnLevel:
		return []byte("<4>")
	case logrus.InfoLevel:
		return []byte("<6>")
	}
	return []byte("<7>")
}
