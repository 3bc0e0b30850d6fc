// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package loglimit drops log lines that come too often, and adds the number of dropped lines to the next line of the same kind.
// Both programs use it, so it depends only on logrus.
package loglimit

import (
	"sync"
	"time"

	"github.com/sirupsen/logrus"
)

// Limiter limits the lines of one kind. rate.Limiter (golang.org/x/time/rate) implements it.
type Limiter interface {
	// AllowN reports whether n lines may be logged now. n is always 1.
	AllowN(now time.Time, n int) bool
}

// Options configure which lines are limited, and how.
type Options struct {
	// Kind returns the kind of a line, and whether lines of this kind are limited.
	Kind func(*logrus.Entry) (kind string, limited bool)
	// New returns the Limiter of a new kind.
	New func() Limiter
	// MaxKinds bounds the number of remembered kinds.
	MaxKinds int
	// Forget makes room by forgetting the kind that was logged longest ago. Otherwise all kinds beyond MaxKinds share a
	// Limiter, which is necessary if clients can create kinds.
	Forget bool
	// Field is the name of the field with the number of dropped lines.
	Field string
}

// New returns a logrus.Formatter that formats like f. A dropped line is empty.
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
	// logged is when a line was last logged, left is the number of lines dropped since.
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

// allow reports whether a line may be logged, and how many were dropped before it.
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
