// Copyright The SmartNat Authors.
// SPDX-License-Identifier: Apache-2.0

package figures

import (
	"fmt"
	"math"
)

// Number formats v with three digits or all digits before the decimal point, with thousands separators.
func Number(v float64) string {
	if math.IsNaN(v) {
		return "-"
	}
	if v < 100 && v != math.Trunc(v) {
		return fmt.Sprintf("%.1f", v)
	}
	digits := fmt.Sprintf("%.0f", v)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}
