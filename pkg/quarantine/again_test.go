// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package quarantine

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/smartnat/smartnat/pkg/gateway"
)

func TestTriedAgain(t *testing.T) {
	good := plain("good", v4, 80, pod1)
	refused := state(good, forward("a", v4, 81, pod1))
	other := state(good, forward("a", v4, 81, pod2))
	moved := refused
	moved.Uplinks = []gateway.Uplink{{Link: "eth2", Number: 1}}
	alone := state(good)
	for _, test := range []struct {
		name string
		// want is applied every second from the first second on.
		want gateway.State
		// until is the duration; tries are the expected times of tries in it.
		until time.Duration
		tries []time.Duration
	}{
		{"an unchanged request is retried with a doubling delay", refused, 2 * time.Hour, []time.Duration{
			minDelay, 3 * minDelay, 7 * minDelay, 15 * minDelay, 31 * minDelay, 63 * minDelay, 95 * minDelay,
		}},
		{"a changed request is retried soon", other, 5 * time.Minute, []time.Duration{soon, soon + minDelay, soon + 3*minDelay}},
		{"a changed host causes an early retry", moved, time.Minute, []time.Duration{soon}},
		{"a removed request is not retried", alone, time.Hour, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := &plane{refuses: bad("a")}
			q := New(p)
			if _, _, err := q.Apply(t.Context(), begin, refused); err != nil {
				t.Fatal(err)
			}
			var tries []time.Duration
			for after := time.Second; after < test.until; after += time.Second {
				before, due := p.tries, q.Due()
				if _, _, err := q.Apply(t.Context(), begin.Add(after), test.want); err != nil {
					t.Fatal(err)
				}
				if p.tries == before {
					continue
				}
				tries = append(tries, after)
				if !due.Equal(begin.Add(after)) {
					t.Errorf("tried after %v, but Due was after %v", after, due.Sub(begin))
				}
			}
			if diff := cmp.Diff(test.tries, tries); diff != "" {
				t.Errorf("tried after (-want +got):\n%s", diff)
			}
			if gone := test.tries == nil; gone != (len(quarantined(q)) == 0) || gone != q.Due().IsZero() {
				t.Errorf("finally quarantined: %q, due %v", quarantined(q), q.Due())
			}
		})
	}
}

// TestTaken: a part that is accepted on retry takes effect in the same Apply and is no longer quarantined.
func TestTaken(t *testing.T) {
	p := &plane{refuses: bad("a", "b")}
	q := New(p)
	want := state(forward("a", v4, 81, pod1), forward("b", v4, 82, pod1), plain("good", v4, 80, pod1))
	if _, _, err := q.Apply(t.Context(), begin, want); err != nil {
		t.Fatal(err)
	}
	p.refuses, p.tries, p.applies = bad("b"), 0, 0
	if _, _, err := q.Apply(t.Context(), begin.Add(minDelay), want); err != nil {
		t.Fatal(err)
	}
	inEffect := []string{"good 198.51.100.10:80/tcp 10.0.0.1", "a 198.51.100.10:81/tcp 10.0.0.1 affinity"}
	if diff := cmp.Diff(inEffect, say(p.state)); diff != "" || !slices.Equal(quarantined(q), []string{"b4"}) {
		t.Errorf("%q are quarantined, in effect (-want +got):\n%s", quarantined(q), diff)
	}
	if p.tries != 3 || p.applies != 2 { // both, a, b
		t.Errorf("%d tries, %d applies", p.tries, p.applies)
	}
}

// TestAnErrorFreesNobody: a part stays quarantined if its retry fails with another error.
func TestAnErrorFreesNobody(t *testing.T) {
	p := &plane{refuses: bad("a")}
	q := New(p)
	want := state(forward("a", v4, 81, pod1))
	if _, _, err := q.Apply(t.Context(), begin, want); err != nil {
		t.Fatal(err)
	}
	p.refuses = func(s gateway.State) error {
		if len(s.Forwards) > 0 {
			return errors.New("locked")
		}
		return nil
	}
	if _, _, err := q.Apply(t.Context(), begin.Add(time.Hour), want); err != nil || len(quarantined(q)) != 1 {
		t.Errorf("error %v, %q are quarantined", err, quarantined(q))
	}
}

// TestAnErrorIsNoReasonToTry: nothing is retried while the rest cannot be written.
func TestAnErrorIsNoReasonToTry(t *testing.T) {
	p := &plane{refuses: bad("a")}
	q := New(p)
	want := state(forward("a", v4, 81, pod1))
	if _, _, err := q.Apply(t.Context(), begin, want); err != nil {
		t.Fatal(err)
	}
	locked := errors.New("locked")
	p.refuses, p.tries = func(gateway.State) error { return locked }, 0
	if _, _, err := q.Apply(t.Context(), begin.Add(time.Hour), want); !errors.Is(err, locked) || p.tries != 0 || len(quarantined(q)) != 1 {
		t.Errorf("error %v, %d tries, %q are quarantined", err, p.tries, quarantined(q))
	}
}
