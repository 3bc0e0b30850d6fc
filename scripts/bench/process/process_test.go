// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package process

import (
	"math"
	"os"
	"testing"
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
		{name: "cut short", text: "7 (smartnatd) S 1 7 7 0 -1 4194560 1 2 3 4 10 5 200", fails: true},
		{name: "no number", text: "7 (smartnatd) S 1 7 7 0 -1 4194560 1 2 3 4 x 5 200 30 20", fails: true},
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

// Of this process, which shares no memory with another.
func TestReadMemory(t *testing.T) {
	m, err := ReadMemory(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if m.Anon < 0.1 || m.File < 0.1 || m.PSS < m.Anon/2 || math.Abs(m.Anon+m.File-m.RSS) > 0.01 || m.Peak < m.RSS {
		t.Errorf("got %+v", m)
	}
}
