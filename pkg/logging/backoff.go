// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package logging

import (
	"fmt"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/smartnat/smartnat/pkg/loglimit"
)

const (
	// firstQuiet and lastQuiet are the shortest and longest time for which a logged error is not logged again.
	firstQuiet, lastQuiet = 10 * time.Second, 10 * time.Minute
	// maxErrors bounds how many errors are remembered.
	maxErrors = 256
)

// newBackoff drops errors that were logged a short while ago: an error that is retried every second is not news each time.
func newBackoff(f logrus.Formatter) logrus.Formatter {
	return loglimit.New(f, loglimit.Options{
		Kind: func(entry *logrus.Entry) (string, bool) {
			cause, failed := entry.Data[logrus.ErrorKey]
			limited := entry.Level < logrus.WarnLevel || entry.Level == logrus.WarnLevel && failed
			return fmt.Sprint(entry.Message, "\n", cause), limited
		},
		New:      func() loglimit.Limiter { return &backoff{} },
		MaxKinds: maxErrors, Forget: true, Field: "repeated",
	})
}

// backoff implements loglimit.Limiter.
type backoff struct {
	last  time.Time
	quiet time.Duration
	// denied is set if a line was dropped since the last logged one.
	denied bool
}

// AllowN implements loglimit.Limiter.
func (b *backoff) AllowN(now time.Time, _ int) bool {
	switch {
	case b.quiet == 0:
		b.quiet = firstQuiet
	case now.Sub(b.last) < b.quiet:
		b.denied = true
		return false
	case now.Sub(b.last) > 2*lastQuiet && !b.denied: // the error had passed
		b.quiet = firstQuiet
	default:
		b.quiet = min(2*b.quiet, lastQuiet)
	}
	b.last, b.denied = now, false
	return true
}
