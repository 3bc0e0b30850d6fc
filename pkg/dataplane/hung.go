// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// hungShare bounds how long programs of one family that hang can make all else wait, which is done in turn: after one second
// of that, for so many the family is left alone.
const hungShare = 5

// unlessHung does what needs programs of the family, unless one of them hung lately: then it fails at once.
func (f *family) unlessHung(ctx context.Context, do func() error) error {
	started := time.Now()
	if started.Before(f.until) {
		return f.hung
	}
	err := do()
	if ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	now := time.Now()
	f.until = now.Add(hungShare * now.Sub(started))
	// What it is of counts no more: it may say that something was refused, too, and is said again and again.
	f.hung = fmt.Errorf("a program hung until %s, the next one is run at %s: %s", clock(now), clock(f.until), err.Error())
	return f.hung
}

func clock(t time.Time) string { return t.UTC().Format(time.RFC3339) }
