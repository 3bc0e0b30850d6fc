// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package loglimit leaves out log lines that come too often, and says with the next line of the kind how many were left out.
// Both programs use it, so it knows nothing but logrus.
package loglimit

import (
	"sync"
	"time"

	"github.com/sirupsen/logrus"
)

// Limiter decides on the lines of one kind. A rate.Limiter (golang.org/x/time/rate) is one.
type Limiter interface {
	// AllowN reports whether n lines may be logged at a time. It is called with 1.
	AllowN(now time.Time, n int) bool
}

// Options say which lines are limited, and how.
type Options struct {
	// Kind returns the kind of a line. Lines are limited together with those of the same kind, or not at all.
	Kind func(*logrus.Entry) (kind string, limited bool)
	// New returns the Limiter of a new kind.
	New func() Limiter
	// MaxKinds bounds how many kinds are remembered.
	MaxKinds int
	// Forget makes room by forgetting the kind that was logged longest ago. Otherwise all kinds beyond MaxKinds share a Limiter,
	// as they have to where others decide on the kinds.
	Forget bool
	// Field names the number of lines that were left out.
	Field string
}

// New returns a logrus.Formatter that formats as f does. A line that is left out is empty.
func New(f logrus.Formatter, options Options) logrus.Formatter {
	return &formatter{Formatter: f, options: options, kinds: map[string]*kind{}}
}

type formatter struct {
	logrus.Formatter
	options Options
	mu      sync.Mutex
	kinds   map[string]*kind
}

type kind struct {
	Limiter
	// logged is when a line was logged last, left the number of lines that were left out since.
	logged time.Time
	left   int
}

// Format implements logrus.Formatter.
func (f *formatter) Format(entry *logrus.Entry) ([]byte, error) {
	name, limited := f.options.Kind(entry)
	if !limited {
		return f.Formatter.Format(entry)
	}
	left, ok := f.allow(name, entry.Time)
	if !ok {
		return nil, nil
	}
	if left > 0 {
		more := entry.WithField(f.options.Field, left)
		more.Level, more.Message, more.Time = entry.Level, entry.Message, entry.Time
		entry = more
	}
	return f.Formatter.Format(entry)
}

// allow reports whether a line is due, and how many were left out before it.
func (f *formatter) allow(name string, now time.Time) (left int, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	k := f.kinds[name]
	if k == nil && len(f.kinds) >= f.options.MaxKinds {
		if f.options.Forget {
			f.forgetOldest()
		} else {
			name = ""
			k = f.kinds[name]
		}
	}
	if k == nil {
		k = &kind{Limiter: f.options.New()}
		f.kinds[name] = k
	}
	if !k.AllowN(now, 1) {
		k.left++
		return 0, false
	}
	left, k.left, k.logged = k.left, 0, now
	return left, true
}

func (f *formatter) forgetOldest() {
	oldest, found := "", false
	for name, k := range f.kinds {
		if !found || k.logged.Before(f.kinds[oldest].logged) {
			oldest, found = name, true
		}
	}
	delete(f.kinds, oldest)
}
