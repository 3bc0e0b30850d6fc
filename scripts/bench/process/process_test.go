// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package process

import (
	"context"
	"errors"
	"math"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

func TestParseStat(t *testing.T) {
	for _, test := range []struct {
		name, text string
		want       time.Duration
		fails      bool
	}{
		{name: "with its children", text: "7 (smartnatd) S 1 7 7 0 -1 4194560 1 2 3 4 10 5 200 30 20 0 9 0 1 2 3", want: 2450 * time.Millisecond},
		{name: "a name that looks like fields", text: "7 (a) S (b) S 1 7 7 0 -1 4194560 1 2 3 4 1 0 0 0 20 0 9", want: 10 * time.Millisecond},
		{name: "truncated", text: "7 (smartnatd) S 1 7 7 0 -1 4194560 1 2 3 4 10 5 200", fails: true},
		{name: "not a number", text: "7 (smartnatd) S 1 7 7 0 -1 4194560 1 2 3 4 x 5 200 30 20", fails: true},
		{name: "nothing", fails: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := parseStat(test.text)
			if got != test.want || (err != nil) != test.fails {
				t.Errorf("got %v, %v; want %v", got, err, test.want)
			}
		})
	}
}

// TestReadMemory reads the memory of this process, which shares none with another.
func TestReadMemory(t *testing.T) {
	m, err := ReadMemory(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if m.Anon < 0.1 || m.File < 0.1 || m.PSS < m.Anon/2 || math.Abs(m.Anon+m.File-m.RSS) > 0.01 || m.Peak < m.RSS {
		t.Errorf("got %+v", m)
	}
}

func TestSettle(t *testing.T) {
	broken := errors.New("broken for the test")
	for _, test := range []struct {
		name string
		// used is the usage in each second, in ticks; the last value repeats.
		used []time.Duration
		// fails is the second in which reading fails, and ends that in which the context ends.
		fails, ends int
		after       time.Duration
		want        error
	}{
		{name: "quiet", used: []time.Duration{0}, after: time.Second},
		{name: "quiet enough", used: []time.Duration{9, 6, 5, 9}, after: 3 * time.Second},
		{name: "never quiet", used: []time.Duration{6}, after: 10 * time.Second},
		{name: "reading fails", used: []time.Duration{9}, fails: 2, after: 2 * time.Second, want: broken},
		{name: "the context ends", used: []time.Duration{9}, ends: 3, after: 3 * time.Second, want: context.DeadlineExceeded},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, began, asked, total := t.Context(), time.Now(), 0, time.Duration(0)
				if test.ends > 0 {
					limited, cancel := context.WithTimeout(ctx, time.Duration(test.ends)*time.Second)
					defer cancel()
					ctx = limited
				}
				err := Settle(ctx, func() (time.Duration, error) {
					if asked++; asked == 1 {
						return total, nil
					}
					if asked-1 == test.fails {
						return 0, broken
					}
					total += test.used[min(asked-2, len(test.used)-1)] * Tick
					return total, nil
				}, 5*Tick, 10*time.Second)
				if after := time.Since(began); !errors.Is(err, test.want) || after != test.after {
					t.Errorf("%v after %v, want %v after %v", err, after, test.want, test.after)
				}
			})
		})
	}
}
