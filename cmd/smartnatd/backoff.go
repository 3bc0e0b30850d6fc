// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
)

const (
	// firstQuiet and lastQuiet are how long an error is not logged again after it was logged once, and after many times.
	firstQuiet, lastQuiet = 10 * time.Second, 10 * time.Minute
	// maxErrors bounds how many errors are remembered.
	maxErrors = 256
)

// backoff is a logrus.Formatter that leaves out errors that were logged a short while ago, and says how many with the next
// one. What is tried again every second is no news each time.
type backoff struct {
	logrus.Formatter
	mu     sync.Mutex
	errors map[string]*repeated
}

// repeated is one error.
type repeated struct {
	last  time.Time
	quiet time.Duration
	// left is how many lines were left out since the last.
	left int
}

func newBackoff(f logrus.Formatter) *backoff {
	return &backoff{Formatter: f, errors: map[string]*repeated{}}
}

// Format implements logrus.Formatter. A line that is left out is empty.
func (b *backoff) Format(entry *logrus.Entry) ([]byte, error) {
	cause, failed := entry.Data[logrus.ErrorKey]
	if entry.Level > logrus.WarnLevel || entry.Level == logrus.WarnLevel && !failed {
		return b.Formatter.Format(entry)
	}
	left, ok := b.allow(fmt.Sprint(entry.Message, "\n", cause), entry.Time)
	if !ok {
		return nil, nil
	}
	if left > 0 {
		more := entry.WithField("repeated", left)
		more.Level, more.Message, more.Time = entry.Level, entry.Message, entry.Time
		entry = more
	}
	return b.Formatter.Format(entry)
}

// allow reports whether an error is due, and how many there were meanwhile.
func (b *backoff) allow(what string, now time.Time) (left int, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	r := b.errors[what]
	switch {
	case r == nil:
		b.makeRoom()
		b.errors[what] = &repeated{last: now, quiet: firstQuiet}
		return 0, true
	case now.Sub(r.last) < r.quiet:
		r.left++
		return 0, false
	case now.Sub(r.last) > 2*lastQuiet && r.left == 0: // It had passed.
		r.quiet = firstQuiet
	default:
		r.quiet = min(2*r.quiet, lastQuiet)
	}
	left, r.left, r.last = r.left, 0, now
	return left, true
}

// makeRoom forgets the error that was logged longest ago.
func (b *backoff) makeRoom() {
	if len(b.errors) < maxErrors {
		return
	}
	oldest := ""
	for what, r := range b.errors {
		if oldest == "" || r.last.Before(b.errors[oldest].last) {
			oldest = what
		}
	}
	delete(b.errors, oldest)
}
