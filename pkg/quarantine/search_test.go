// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package quarantine

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/smartnat/smartnat/pkg/gateway"
)

// TestTriesAreBounded: if all parts are refused, for example because a kernel module is missing, a search stops at the limit
// and later searches finish the work.
func TestTriesAreBounded(t *testing.T) {
	const n, good = 300, 7
	before, want := many(n)
	var marks []string
	for i, f := range want.Forwards {
		if i%(n/good) != 0 || i == 0 {
			marks = append(marks, f.Owner)
		}
	}
	p := &plane{refuses: never}
	q := New(p)
	if _, _, err := q.Apply(t.Context(), begin, before); err != nil {
		t.Fatal(err)
	}
	p.refuses = bad(marks...)
	now, searches := begin, 0
	for {
		tries := p.tries
		if _, _, err := q.Apply(t.Context(), now, want); err != nil {
			t.Fatal(err)
		}
		if got := p.tries - tries; got > 2*(maxTries+9) { // 9 halves may be pending at the limit
			t.Fatalf("%d tries in one Apply", got)
		}
		if len(p.state.Forwards) != n {
			t.Fatalf("%d Forwards in effect, old or new; want %d", len(p.state.Forwards), n)
		}
		searches++
		if !slices.ContainsFunc(q.Refusals(), func(r Refusal) bool { return r.Suspected }) {
			break
		}
		if searches > 20 { // parts known to be bad do not delay suspected ones
			t.Fatalf("%d parts still quarantined after %d searches", len(q.quarantined), searches)
		}
		now = q.Due()
	}
	if len(q.quarantined) != len(marks) {
		t.Errorf("%d are quarantined, want %d", len(q.quarantined), len(marks))
	}
	t.Logf("found %d of %d in %d searches with %d tries within %v", len(marks), n, searches, p.tries, now.Sub(begin))
}

// TestASearchThatCannotGoOn: an interrupted search blames only parts that were refused alone.
func TestASearchThatCannotGoOn(t *testing.T) {
	_, want := many(100)
	for _, test := range []struct {
		name        string
		after       int
		quarantined []string
	}{
		{"at once", 0, nil},
		{"before the first part is found", 5, nil},
		{"after the first part is found", 14, []string{"many/00104"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			locked := errors.New("locked")
			p := &plane{}
			refused := bad("many/0010", "many/0090")
			p.refuses = func(s gateway.State) error {
				if p.tries > test.after {
					return locked
				}
				return refused(s)
			}
			q := New(p)
			_, _, err := q.Apply(t.Context(), begin, want)
			if err == nil {
				t.Error("no error")
			}
			if p.tries > max(test.after, 1)+1 {
				t.Errorf("%d tries, want none after the failure at %d", p.tries, test.after)
			}
			if diff := cmp.Diff(test.quarantined, quarantined(q)); diff != "" {
				t.Errorf("quarantined (-want +got):\n%s", diff)
			}
		})
	}
	t.Run("the daemon stops", func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		p := &plane{}
		p.refuses = func(gateway.State) error {
			if p.tries == 3 {
				stop()
			}
			return gateway.ErrRefused
		}
		_, _, err := New(p).Apply(ctx, begin, want)
		if err == nil || p.tries > 3 {
			t.Errorf("error %v after %d tries", err, p.tries)
		}
	})
}
