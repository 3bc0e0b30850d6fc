// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package logging

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
)

// TestLinesOfTheJournal checks that lines for the journal begin with their priority and have no time.
func TestLinesOfTheJournal(t *testing.T) {
	for _, test := range []struct {
		level  logrus.Level
		prefix string
	}{
		{logrus.DebugLevel, "<7>"}, {logrus.InfoLevel, "<6>"}, {logrus.WarnLevel, "<4>"}, {logrus.ErrorLevel, "<3>"},
	} {
		for _, format := range []string{"text", "json"} {
			for _, toJournal := range []bool{true, false} {
				var out bytes.Buffer
				log := logrus.New()
				log.SetOutput(&out)
				log.SetLevel(logrus.DebugLevel)
				log.SetFormatter(newFormatter(format, toJournal))
				log.WithError(errors.New("a\nb\x1b[2J\u009b")).Log(test.level, "went wrong\x7f")
				line := strings.TrimSuffix(out.String(), "\n")
				text, found := strings.CutPrefix(line, test.prefix)
				if found != toJournal || strings.Contains(line, "time") == toJournal {
					t.Errorf("%s %v, to the journal: %t: %s", format, test.level, toJournal, line)
				}
				if strings.ContainsAny(line, "\n\x1b\x7f\u009b") {
					t.Errorf("%s %v: %q is not one line of printable text", format, test.level, line)
				}
				var fields map[string]string
				if format == "json" && (json.Unmarshal([]byte(text), &fields) != nil || fields["error"] != "a\nb\x1b[2J\u009b") {
					t.Errorf("%v: %s is not JSON with the logged error", test.level, text)
				}
			}
		}
	}
}

// TestErrorsBackOff checks that a repeated error is logged less and less often, and other errors at once.
func TestErrorsBackOff(t *testing.T) {
	var out bytes.Buffer
	log, err := New(Options{Level: "info", Format: "text"}, &out)
	if err != nil {
		t.Fatal(err)
	}
	start := time.Unix(1700000000, 0)
	said := func() string {
		defer out.Reset()
		return out.String()
	}
	missing := errors.New("token: no such file")
	lines, repeated := 0, 0
	for second := range 3600 {
		log.WithTime(start.Add(time.Duration(second)*time.Second)).WithError(missing).WithField("failures", second).Error("not everything could be programmed")
		text := said()
		lines += strings.Count(text, "\n")
		if strings.Contains(text, "repeated=") {
			repeated++
		}
	}
	if lines < 5 || lines > 12 || repeated != lines-1 {
		t.Errorf("%d lines for an error that lasts an hour, %d with a count", lines, repeated)
	}
	at := log.WithTime(start.Add(time.Hour))
	at.WithError(errors.New("another")).Warn("not everything could be programmed")
	at.Warn("a warning without a cause")
	at.Warn("a warning without a cause")
	at.Info("programmed")
	at.Info("programmed")
	if n := strings.Count(said(), "\n"); n != 5 {
		t.Errorf("%d lines, want 5", n)
	}
	log.WithTime(start.Add(3 * time.Hour)).WithError(missing).Error("not everything could be programmed")
	if text := said(); !strings.Contains(text, "repeated=") {
		t.Errorf("logged %q, want the number of repetitions", text)
	}
	log.WithTime(start.Add(4 * time.Hour)).WithError(missing).Error("not everything could be programmed")
	log.WithTime(start.Add(4*time.Hour + firstQuiet)).WithError(missing).Error("not everything could be programmed")
	if n := strings.Count(said(), "\n"); n != 2 {
		t.Errorf("%d lines for an error that had passed, want 2", n)
	}
	for i := range 10 * maxErrors {
		at.WithError(fmt.Errorf("error %d", i)).Error("failed")
	}
	if n := strings.Count(said(), "\n"); n != 10*maxErrors {
		t.Errorf("%d lines for %d errors", n, 10*maxErrors)
	}
}

func FuzzPrintable(f *testing.F) {
	for _, text := range []string{"", "a\tb\n", "\x1b[2J", "\xff\xc2", "é\u009b\u202e", "\U000e0001"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got := string(Printable([]byte(text)))
		if strings.ContainsFunc(got, func(r rune) bool {
			return r != '\n' && r != '\t' && !strings.ContainsRune(text, r) && r > 0x7e || r < ' ' && r != '\n' && r != '\t'
		}) {
			t.Errorf("%q becomes %q", text, got)
		}
		if again := string(Printable([]byte(got))); again != got {
			t.Errorf("%q becomes %q, and that %q", text, got, again)
		}
	})
}
