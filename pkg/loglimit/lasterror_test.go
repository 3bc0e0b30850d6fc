// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package loglimit

import (
	"errors"
	"testing"
)

func TestLastError(t *testing.T) {
	var last LastError
	refused, locked := errors.New("refused"), errors.New("locked")
	for i, step := range []struct {
		err  error
		want bool
	}{{nil, false}, {refused, true}, {errors.New("refused"), false}, {locked, true}, {refused, true}, {nil, false}, {nil, false}, {refused, true}} {
		if got := last.Changed(step.err); got != step.want {
			t.Errorf("step %d, %v: changed %t, want %t", i, step.err, got, step.want)
		}
	}
}
