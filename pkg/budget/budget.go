// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

// Package budget bounds the share of time that repeated work may take. It is pure: the caller tells the time.
package budget

import "time"

// Budget bounds a kind of work. The zero value has no limit.
type Budget struct {
	share  int
	credit time.Duration
	next   time.Time
}

// New returns a Budget of one second in share. Work that was idle for credit or longer may run several times in a row.
func New(share int, credit time.Duration) Budget { return Budget{share: share, credit: credit} }

// ForReadings bounds the readings of the kernel that a process can cause by writing all the time. Several may follow each
// other, because a firewall writes several times when it reloads.
func ForReadings() Budget { return New(20, 10*time.Second) }

// Allows reports whether the work may run now.
func (b *Budget) Allows(now time.Time) bool { return !now.Before(b.next) }

// Next returns when the work may run again.
func (b *Budget) Next() time.Time { return b.next }

// Spend records that the work took this time until now.
func (b *Budget) Spend(now time.Time, took time.Duration) {
	if earliest := now.Add(-b.credit); b.next.Before(earliest) {
		b.next = earliest
	}
	b.next = b.next.Add(took * time.Duration(b.share))
}
