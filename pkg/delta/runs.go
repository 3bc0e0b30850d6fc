// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package delta

import (
	"cmp"
	"slices"
)

// Run is a run of Len items that two lists share, from index Before in the old list and from index Now in the new one.
type Run struct{ Before, Now, Len int }

// Runs are the longest runs that two lists share, in order.
type Runs []Run

// AppendRuns appends the runs that two lists share to an empty list. Both lists are sorted by compare. Equal reports whether two
// items have the same content. It is not called for items with the same value, such as the same pointer, so unchanged items cost
// little.
func AppendRuns[T comparable](to Runs, before, now []T, compare func(a, b T) int, equal func(a, b T) bool) Runs {
	i, j := 0, 0
	for i < len(before) && j < len(now) {
		x, y := before[i:], now[j:]
		n, most := 0, min(len(x), len(y))
		for n < most && (x[n] == y[n] || equal(x[n], y[n])) {
			n++
		}
		if n > 0 {
			to = append(to, Run{i, j, n})
			i, j = i+n, j+n
			continue
		}
		order := compare(before[i], now[j])
		if order <= 0 {
			i++
		}
		if order >= 0 {
			j++
		}
	}
	return to
}

// Contain reports whether the n items from index now of the new list were adjacent in the old one, too.
func (r Runs) Contain(now, n int) bool {
	i, found := slices.BinarySearchFunc(r, now, func(run Run, now int) int { return cmp.Compare(run.Now, now) })
	if !found {
		i--
	}
	return i >= 0 && now+n <= r[i].Now+r[i].Len
}

// All reports whether an old and a new list of these lengths are equal.
func (r Runs) All(before, now int) bool { return before == now && (now == 0 || r.Contain(0, now)) }
