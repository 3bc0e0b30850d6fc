// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import "testing"

func TestLimitFor(t *testing.T) {
	const mb = 1 << 20
	for _, test := range []struct {
		name                string
		live, current, want int64
	}{
		{"nothing in use", 0, 0, 40 * mb},
		{"little in use", 20 * mb, 0, 40 * mb},
		{"it grows", 100 * mb, 40 * mb, 170 * mb},
		{"a little more", 105 * mb, 170 * mb, 170 * mb},
		{"much more", 120 * mb, 170 * mb, 204 * mb},
		{"a little less", 95 * mb, 170 * mb, 170 * mb},
		{"it shrinks", 10 * mb, 170 * mb, 40 * mb},
	} {
		if got := limitFor(test.live, test.current); got != test.want {
			t.Errorf("%s: %d MB, want %d MB", test.name, got/mb, test.want/mb)
		}
	}
}
