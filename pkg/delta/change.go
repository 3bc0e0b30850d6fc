// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package delta

import (
	"iter"
	"slices"
)

// Change holds the items that leave a list and those that enter it. A replaced item is in both.
type Change[T any] struct {
	Removed, Added []T
}

// Empty reports whether the list stays as it is.
func (c *Change[T]) Empty() bool { return len(c.Removed)+len(c.Added) == 0 }

// Apply returns the list after the change. The list is sorted by compare, without items that compare as equal. Apply does not
// modify it, and returns the list itself if the change is empty, or nil if no item is left. It sorts Removed and Added. It
// ignores removed items that the list does not have.
//
// Apply searches the place of each changed item, so its cost is that of the change and of copying the list once.
func (c *Change[T]) Apply(list []T, compare func(a, b T) int) []T {
	if c.Empty() {
		return list
	}
	removed, added := c.Removed, c.Added
	slices.SortFunc(removed, compare)
	slices.SortFunc(added, compare)
	result := make([]T, 0, max(len(list)-len(removed)+len(added), 0))
	copyUpTo := func(item T) (found bool) {
		i, found := slices.BinarySearchFunc(list, item, compare)
		result, list = append(result, list[:i]...), list[i:]
		return found
	}
	for len(removed)+len(added) > 0 {
		if len(added) == 0 || len(removed) > 0 && compare(removed[0], added[0]) <= 0 {
			if copyUpTo(removed[0]) {
				list = list[1:]
			}
			removed = removed[1:]
		} else {
			copyUpTo(added[0])
			result, added = append(result, added[0]), added[1:]
		}
	}
	if result = append(result, list...); len(result) == 0 {
		return nil
	}
	return result
}

// Diff returns the change from one list to another, in any order. An item may occur several times. Diff is cheap if the lists
// have the same order, or the same memory. The change may share the memory of the lists.
func Diff[T comparable](before, now []T) Change[T] {
	if len(before) == len(now) && (len(now) == 0 || &before[0] == &now[0]) {
		return Change[T]{}
	}
	for len(before) > 0 && len(now) > 0 && before[0] == now[0] {
		before, now = before[1:], now[1:]
	}
	for len(before) > 0 && len(now) > 0 && before[len(before)-1] == now[len(now)-1] {
		before, now = before[:len(before)-1], now[:len(now)-1]
	}
	if len(before) == 0 || len(now) == 0 {
		return Change[T]{Removed: before, Added: now}
	}
	var c Change[T]
	unmatched := make(map[T]int, len(before))
	for _, item := range before {
		unmatched[item]++
	}
	for _, item := range now {
		if unmatched[item] > 0 {
			unmatched[item]--
		} else {
			c.Added = append(c.Added, item)
		}
	}
	for _, item := range before {
		if unmatched[item] > 0 {
			unmatched[item]--
			c.Removed = append(c.Removed, item)
		}
	}
	return c
}

// Join yields the items of two lists in the order of compare, by which both are sorted. Items that compare as equal come
// together. Otherwise, one of the pointers is nil.
func Join[T any](before, now []T, compare func(a, b T) int) iter.Seq2[*T, *T] {
	return func(yield func(before, now *T) bool) {
		i, j := 0, 0
		for i < len(before) || j < len(now) {
			var order int
			switch {
			case i == len(before):
				order = 1
			case j == len(now):
				order = -1
			default:
				order = compare(before[i], now[j])
			}
			var was, is *T
			if order <= 0 {
				was = &before[i]
				i++
			}
			if order >= 0 {
				is = &now[j]
				j++
			}
			if !yield(was, is) {
				return
			}
		}
	}
}

// Differing yields what Join does, except for items that both lists share. Lists of pointers share most of them, and each costs no more
// than the comparison of two pointers. One of a pair may be nil.
func Differing[T any](before, now []*T, compare func(a, b *T) int) iter.Seq2[*T, *T] {
	return func(yield func(before, now *T) bool) {
		for {
			same, most := 0, min(len(before), len(now))
			for same < most && before[same] == now[same] {
				same++
			}
			before, now = before[same:], now[same:]
			var order int
			switch {
			case len(before)+len(now) == 0:
				return
			case len(before) == 0:
				order = 1
			case len(now) == 0:
				order = -1
			default:
				order = compare(before[0], now[0])
			}
			var was, is *T
			if order <= 0 {
				was, before = before[0], before[1:]
			}
			if order >= 0 {
				is, now = now[0], now[1:]
			}
			if !yield(was, is) {
				return
			}
		}
	}
}
