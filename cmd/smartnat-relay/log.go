// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/time/rate"
)

const (
	// linesPerMinute and linesAtOnce bound the rate of each log message, so that clients cannot flood the log.
	linesPerMinute, linesAtOnce = 6, 20
	// limitedMessages bounds the number of messages with a limit of their own. The relay's messages are constants, but
	// those of libraries may vary; further messages share one limit.
	limitedMessages = 256
)

// limited is a logrus.Formatter that drops lines of a message that occurs too often, and reports their number with the
// next one. It drops no debug lines.
type limited struct {
	logrus.Formatter
	mu       sync.Mutex
	messages map[string]*limit
}

type limit struct {
	*rate.Limiter
	left int // dropped since the last line
}

func newLimited(f logrus.Formatter) *limited {
	return &limited{Formatter: f, messages: map[string]*limit{}}
}

// Format implements logrus.Formatter. It returns nothing for a dropped line.
func (l *limited) Format(entry *logrus.Entry) ([]byte, error) {
	if entry.Level >= logrus.DebugLevel {
		return l.Formatter.Format(entry)
	}
	left, ok := l.allow(entry.Message, entry.Time)
	if !ok {
		return nil, nil
	}
	if left > 0 {
		more := entry.WithField("left-out", left)
		more.Level, more.Message = entry.Level, entry.Message
		entry = more
	}
	return l.Formatter.Format(entry)
}

func (l *limited) allow(message string, now time.Time) (left int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	of := l.messages[message]
	if of == nil && len(l.messages) >= limitedMessages {
		message = ""
		of = l.messages[message]
	}
	if of == nil {
		of = &limit{Limiter: rate.NewLimiter(rate.Every(time.Minute/linesPerMinute), linesAtOnce)}
		l.messages[message] = of
	}
	if !of.AllowN(now, 1) {
		of.left++
		return 0, false
	}
	left, of.left = of.left, 0
	return left, true
}
