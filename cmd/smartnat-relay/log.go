// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/time/rate"

	"github.com/smartnat/smartnat/pkg/loglimit"
)

const (
	// linesPerMinute and linesAtOnce are how often a message is logged, whatever a client does to cause it.
	linesPerMinute, linesAtOnce = 6, 20
	// limitedMessages bounds how many messages have a limit of their own. Ours are constants; a library's need not be, and those
	// beyond share one.
	limitedMessages = 256
)

// newLimited leaves out lines that come too often. Lines for debugging are all there.
func newLimited(f logrus.Formatter) logrus.Formatter {
	return loglimit.New(f, loglimit.Options{
		Kind:     func(entry *logrus.Entry) (string, bool) { return entry.Message, entry.Level < logrus.DebugLevel },
		New:      func() loglimit.Limiter { return rate.NewLimiter(rate.Every(time.Minute/linesPerMinute), linesAtOnce) },
		MaxKinds: limitedMessages, Field: "left-out",
	})
}
