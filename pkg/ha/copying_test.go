// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package ha

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// counters are what conntrackd 1.4.7 prints, with numbers that differ.
const counters = `cache internal:
current active connections:	          12
connections created:		          13	failed:	           1
connections updated:		          14	failed:	           2
connections destroyed:		          15	failed:	           3

external inject:
connections created:		         100	failed:	           4
connections updated:		         200	failed:	           5
connections destroyed:		         300	failed:	           6

traffic processed:
                   0 Bytes                         0 Pckts

UDP traffic (active device=eth3):
                9608 Bytes sent                 9576 Bytes recv
                 120 Pckts sent                  119 Pckts recv
                   7 Error send                    8 Error recv

message tracking:
                  10 Malformed msgs                   11 Lost msgs

`

func TestParseCopying(t *testing.T) {
	got, err := ParseCopying(counters)
	if err != nil {
		t.Fatal(err)
	}
	want := Copying{Own: 12, Copied: 100, NotCopied: 9, SendErrors: 7, ReceiveErrors: 8, Malformed: 10, Lost: 11}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got.Problems() != 45 {
		t.Errorf("%d problems, want 45", got.Problems())
	}
}

func TestParseCopyingOfOtherText(t *testing.T) {
	for name, text := range map[string]string{
		"nothing":            "",
		"no section":         strings.Replace(counters, "message tracking:", "", 1),
		"no number":          strings.Replace(counters, "          12", "          \x1b[2J", 1),
		"a negative number":  strings.Replace(counters, "   7 Error", "  -7 Error", 1),
		"too large a number": strings.Replace(counters, "          12", "99999999999999999999", 1),
		"too long":           counters + strings.Repeat("\n", MaxCopying),
	} {
		if got, err := ParseCopying(text); err == nil || got != (Copying{}) || strings.Contains(err.Error(), "\x1b") {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}
