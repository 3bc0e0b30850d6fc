// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package ruleset

import "strings"

// index finds elements of a set.
type index struct {
	Schema
	// size is the number of bytes of a key in registers.
	size   int
	byKey  map[string]Element
	ranges []Element
}

func newIndex(s *Set) *index {
	x := &index{Schema: s.Schema, byKey: map[string]Element{}}
	for _, d := range s.Key {
		x.size += d.Padded()
	}
	for _, e := range s.Elements {
		if e.Last == "" {
			x.byKey[pad(e.Key, x.size)] = e
			continue
		}
		e.Key, e.Last = pad(e.Key, x.size), pad(e.Last, x.size)
		x.ranges = append(x.ranges, e)
	}
	return x
}

// pad fills the last register of a key.
func pad(key string, size int) string { return key + strings.Repeat("\x00", max(0, size-len(key))) }

func (x *index) find(key []byte) (Element, bool) {
	if e, ok := x.byKey[string(key)]; ok || key == nil {
		return e, ok
	}
	for _, e := range x.ranges {
		if x.within(string(key), e.Key, e.Last) {
			return e, true
		}
	}
	return Element{}, false
}

// within reports whether each part of a key is in the range of that part.
func (x *index) within(key, first, last string) bool {
	at := 0
	for _, d := range x.Key {
		end := at + d.Padded()
		if part := key[at:end]; part < first[at:end] || part > last[at:end] {
			return false
		}
		at = end
	}
	return true
}
