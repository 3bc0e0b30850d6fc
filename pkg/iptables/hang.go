// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package iptables

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// hungShare bounds the time that hanging programs of one family may take from everything else, which waits for them. After a
// program hung for a time, no program of the family runs for hungShare times that time.
const hungShare = 5

// hang is the error of a program that hung. No program runs before until.
type hang struct {
	err   error
	until time.Time
}

// unlessHung runs do, which runs programs for the family. It fails at once if one of them hung recently.
func (h *hang) unlessHung(ctx context.Context, do func() error) error {
	started := time.Now()
	if started.Before(h.until) {
		return h.err
	}
	err := do()
	if ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	now := time.Now()
	h.until = now.Add(hungShare * now.Sub(started))
	// Do not wrap the cause: the error is returned many times, and must not match gateway.ErrRefused.
	h.err = fmt.Errorf("a program hung until %s, the next one is run at %s: %s", clock(now), clock(h.until), err.Error())
	return h.err
}

func clock(t time.Time) string { return t.UTC().Format(time.RFC3339) }
