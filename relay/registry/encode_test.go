// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"io"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// client takes what a watch writes.
type client struct{ *httptest.ResponseRecorder }

func (client) SetWriteDeadline(time.Time) error { return nil }

// A watch keeps little once it has written what there was at the beginning, and writes all of it.
func TestOutputKeepsLittle(t *testing.T) {
	to := client{httptest.NewRecorder()}
	o := newOutput(to)
	if err := o.begin("application/json"); err != nil {
		t.Fatal(err)
	}
	if o.buffer.Size() != beginSize || !to.Flushed {
		t.Errorf("the beginning is written by pieces of %d bytes, want %d", o.buffer.Size(), beginSize)
	}
	var want strings.Builder
	for _, n := range []int{10, 3 * beginSize, 100, quietSize, 5 * quietSize, 1} {
		text := strings.Repeat("x", n-1) + "\n"
		want.WriteString(text)
		if _, err := io.WriteString(o.buffer, text); err != nil {
			t.Fatal(err)
		}
		if err := o.flush(); err != nil {
			t.Fatal(err)
		}
		if to.Body.String() != want.String() {
			t.Fatalf("%d bytes arrived, want %d", to.Body.Len(), want.Len())
		}
		if o.buffer.Size() != quietSize {
			t.Errorf("a quiet watch keeps %d bytes, want %d", o.buffer.Size(), quietSize)
		}
	}
}
