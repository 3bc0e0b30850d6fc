// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// hungShare bounds the time that hanging programs of one family may take from everything else, which waits for them. After a
// program hung for a time, no program of the family runs for hungShare times that time.
const hungShare = 5

// unlessHung runs do, which runs programs for the family. It fails at once if one of them hung recently.
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
	// Do not wrap the cause: the error is returned many times, and must not match gateway.ErrRefused.
	f.hung = fmt.Errorf("a program hung until %s, the next one is run at %s: %s", clock(now), clock(f.until), err.Error())
	return f.hung
}

func clock(t time.Time) string { return t.UTC().Format(time.RFC3339) }
